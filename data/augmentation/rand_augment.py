"""RandAugment (Cubuk et al., arXiv 1909.13719): some operations of one strength, any of them next."""

from dataclasses import dataclass

from torch import Tensor

from data.augmentation.drawing import Floats, choice
from data.augmentation.operations import PLAIN, Fill, Range, colours, operate, space
from utils.randomness import AUTO_AUGMENT

STRONGEST = 30  # --ra-magnitude, as torchvision counts
SHIFT = Range(0, 150 / 331, signed=True, of_side=True)
SPACE = {"identity": PLAIN} | space(0.3, SHIFT, 30, (8, 4)) | colours(0.9)
NAMES = tuple(SPACE)


@dataclass(frozen=True)
class RandAugment:
    """`count` operations, drawn with replacement, at `magnitude` of STRONGEST."""

    count: int
    magnitude: float
    fill: Fill

    stream = AUTO_AUGMENT

    @property
    def draws(self) -> int:
        """For each operation which, and its sign."""
        return 2 * self.count

    def __call__(self, image: Tensor, numbers: Floats) -> Tensor:
        """(3, h, w) uint8 to the same; `numbers` (draws,)."""
        for which, sign in numbers.reshape(-1, 2):
            name = NAMES[choice(which, len(NAMES))]
            image = operate(image, name, SPACE[name], self.magnitude / STRONGEST, sign, self.fill)
        return image
