"""Greyscale: all three channels become the luma of the image (ITU-R 601), as torchvision's RandomGrayscale."""

from dataclasses import dataclass

from torch import Tensor
from torchvision.transforms.v2.functional import rgb_to_grayscale

from data.augmentation.drawing import Floats
from utils.randomness import GRAYSCALE


def without_colours(image: Tensor) -> Tensor:
    """(3, h, w) uint8 to the same, all channels equal."""
    return rgb_to_grayscale(image, num_output_channels=3).contiguous()  # its channels are one piece of memory


@dataclass(frozen=True)
class Grayscale:
    """An image loses its colours with `probability`."""

    probability: float

    stream = GRAYSCALE
    draws = 1

    def __call__(self, image: Tensor, numbers: Floats) -> Tensor:
        """(3, h, w) uint8 to the same; `numbers` (draws,)."""
        return without_colours(image) if numbers[0] < self.probability else image
