"""Solarization: values from a threshold up are inverted, as torchvision's RandomSolarize."""

from dataclasses import dataclass

from torch import Tensor
from torchvision.transforms.v2.functional import solarize

from data.augmentation.drawing import Floats
from utils.randomness import SOLARIZE


@dataclass(frozen=True)
class Solarize:
    """An image is solarized with `probability`; `threshold` is the darkest value that is inverted, of 255."""

    probability: float
    threshold: int

    stream = SOLARIZE
    draws = 1

    def __call__(self, image: Tensor, numbers: Floats) -> Tensor:
        """(3, h, w) uint8 to the same; `numbers` (draws,)."""
        return solarize(image, self.threshold) if numbers[0] < self.probability else image
