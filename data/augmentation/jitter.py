"""Colour jitter: brightness, contrast, saturation and hue of an image changed in a random order, as torchvision's."""

from dataclasses import dataclass
from itertools import permutations

from torch import Tensor
from torchvision.transforms.v2.functional import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation

from data.augmentation.drawing import Floats, between, choice
from utils.randomness import JITTER

ADJUST = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
HUE = 3  # its place in ADJUST
ORDERS = tuple(permutations(range(len(ADJUST))))
FULL_TURN = 0.5  # of hue, to either side


@dataclass(frozen=True)
class ColorJitter:
    """With `probability` a factor in [max(0, 1 - s), 1 + s] for each of the first three `strengths` s, and a turn of
    the hue in [-s, s] for the fourth."""

    strengths: tuple[float, float, float, float]
    probability: float

    stream = JITTER
    draws = 2 + len(ADJUST)  # whether, in which order, how much of each

    def __call__(self, image: Tensor, numbers: Floats) -> Tensor:
        """(3, h, w) uint8 to the same; `numbers` (draws,)."""
        if numbers[0] >= self.probability:
            return image
        for kind in ORDERS[choice(numbers[1], len(ORDERS))]:
            if self.strengths[kind]:
                image = ADJUST[kind](image, self._factor(kind, numbers[2 + kind]))
        return image

    def _factor(self, kind: int, number: float) -> float:
        strength, middle = self.strengths[kind], 0.0 if kind == HUE else 1.0
        lowest = -FULL_TURN if kind == HUE else 0.0
        return between(number, max(lowest, middle - strength), middle + strength)
