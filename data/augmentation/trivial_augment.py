"""TrivialAugment (Müller and Hutter, arXiv 2103.10158), its wide space: one operation at a random strength."""

from dataclasses import dataclass

from torch import Tensor

from data.augmentation.drawing import Floats, choice
from data.augmentation.operations import PLAIN, Fill, Range, colours, operate, space
from utils.randomness import AUTO_AUGMENT

LEVELS = 31
SPACE = {"identity": PLAIN} | space(0.99, Range(0, 32, signed=True), 135, (8, 2)) | colours(0.99)
NAMES = tuple(SPACE)


@dataclass(frozen=True)
class TrivialAugment:
    """One operation, at one of 31 levels."""

    fill: Fill

    stream = AUTO_AUGMENT
    draws = 3  # which, how strong, its sign

    def __call__(self, image: Tensor, numbers: Floats) -> Tensor:
        """(3, h, w) uint8 to the same; `numbers` (draws,)."""
        name = NAMES[choice(numbers[0], len(NAMES))]
        level = choice(numbers[1], LEVELS) / (LEVELS - 1)
        return operate(image, name, SPACE[name], level, numbers[2], self.fill)
