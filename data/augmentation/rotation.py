"""Rotation about the middle, as torchvision's RandomRotation: nearest pixels, black where nothing is."""

from dataclasses import dataclass

from torch import Tensor
from torchvision.transforms.v2.functional import rotate

from data.augmentation.drawing import Floats, between
from utils.randomness import ROTATION


@dataclass(frozen=True)
class Rotation:
    """An image is turned by up to `degrees` to either side."""

    degrees: float

    stream = ROTATION
    draws = 1

    def __call__(self, image: Tensor, numbers: Floats) -> Tensor:
        """(3, h, w) uint8 to the same; `numbers` (draws,)."""
        return rotate(image, between(numbers[0], -self.degrees, self.degrees))
