"""AutoAugment (Cubuk et al., arXiv 1805.09501): one of 25 learned pairs of operations, tables 7 to 9 of the paper."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from data.augmentation.drawing import Floats, choice
from data.augmentation.operations import PLAIN, Fill, Range, colours, operate, space
from utils.randomness import AUTO_AUGMENT

LEVELS = 10
SHIFT = Range(0, 150 / 331, signed=True, of_side=True)
SPACE = space(0.3, SHIFT, 30, (8, 4)) | colours(0.9) | {"invert": PLAIN}


class Part(NamedTuple):
    """An operation, how probable it is, and its level, 0 where it has none."""

    name: str
    probability: float
    level: int


Pair = tuple[Part, Part]

# A pair a line: operation, probability in tenths, level, twice.
WRITTEN = {
    "imagenet": """
        posterize 4 8      rotate 6 9
        solarize 6 5       auto-contrast 6 0
        equalize 8 0       equalize 6 0
        posterize 6 7      posterize 6 6
        equalize 4 0       solarize 2 4
        equalize 4 0       rotate 8 8
        solarize 6 3       equalize 6 0
        posterize 8 5      equalize 10 0
        rotate 2 3         solarize 6 8
        equalize 6 0       posterize 4 6
        rotate 8 8         color 4 0
        rotate 4 9         equalize 6 0
        equalize 0 0       equalize 8 0
        invert 6 0         equalize 10 0
        color 6 4          contrast 10 8
        rotate 8 8         color 10 2
        color 8 8          solarize 8 7
        sharpness 4 7      invert 6 0
        shear-x 6 5        equalize 10 0
        color 4 0          equalize 6 0
        equalize 4 0       solarize 2 4
        solarize 6 5       auto-contrast 6 0
        invert 6 0         equalize 10 0
        color 6 4          contrast 10 8
        equalize 8 0       equalize 6 0
    """,
    "cifar10": """
        invert 1 0         contrast 2 6
        rotate 7 2         translate-x 3 9
        sharpness 8 1      sharpness 9 3
        shear-y 5 8        translate-y 7 9
        auto-contrast 5 0  equalize 9 0
        shear-y 2 7        posterize 3 7
        color 4 3          brightness 6 7
        sharpness 3 9      brightness 7 9
        equalize 6 0       equalize 5 0
        contrast 6 7       sharpness 6 5
        color 7 7          translate-x 5 8
        equalize 3 0       auto-contrast 4 0
        translate-y 4 3    sharpness 2 6
        brightness 9 6     color 2 8
        solarize 5 2       invert 0 0
        equalize 2 0       auto-contrast 6 0
        equalize 2 0       equalize 6 0
        color 9 9          equalize 6 0
        auto-contrast 8 0  solarize 2 8
        brightness 1 3     color 7 0
        solarize 4 5       auto-contrast 9 0
        translate-y 9 9    translate-y 7 9
        auto-contrast 9 0  solarize 8 3
        equalize 8 0       invert 1 0
        translate-y 7 9    auto-contrast 9 0
    """,
    "svhn": """
        shear-x 9 4        invert 2 0
        shear-y 9 8        invert 7 0
        equalize 6 0       solarize 6 6
        invert 9 0         equalize 6 0
        equalize 6 0       rotate 9 3
        shear-x 9 4        auto-contrast 8 0
        shear-y 9 8        invert 4 0
        shear-y 9 5        solarize 2 6
        invert 9 0         auto-contrast 8 0
        equalize 6 0       rotate 9 3
        shear-x 9 4        solarize 3 3
        shear-y 8 8        invert 7 0
        equalize 9 0       translate-y 6 6
        invert 9 0         equalize 6 0
        contrast 3 3       rotate 8 4
        invert 8 0         translate-y 0 2
        shear-y 7 6        solarize 4 8
        invert 6 0         rotate 8 4
        shear-y 3 7        translate-x 9 3
        shear-x 1 6        invert 6 0
        solarize 7 2       translate-y 6 7
        shear-y 8 4        invert 8 0
        shear-x 7 9        translate-y 8 3
        shear-y 8 5        auto-contrast 7 0
        shear-x 7 2        invert 1 0
    """,
}


def pairs(text: str) -> tuple[Pair, ...]:
    """The pairs of a table as WRITTEN has it."""
    found = []
    for line in text.strip().splitlines():
        words = line.split()
        first, second = (Part(name, int(tenths) / 10, int(level)) for name, tenths, level in (words[:3], words[3:]))
        found.append((first, second))
    return tuple(found)


@dataclass(frozen=True)
class AutoAugment:
    """One of the `policy`'s pairs, each of its operations with its own probability."""

    policy: tuple[Pair, ...]
    fill: Fill

    stream = AUTO_AUGMENT
    draws = 5  # which pair; of each operation whether, and its sign

    def __call__(self, image: Tensor, numbers: Floats) -> Tensor:
        """(3, h, w) uint8 to the same; `numbers` (draws,)."""
        pair = self.policy[choice(numbers[0], len(self.policy))]
        for part, (whether, sign) in zip(pair, numbers[1:].reshape(2, 2), strict=True):
            if whether < part.probability:
                level = part.level / (LEVELS - 1)
                image = operate(image, part.name, SPACE[part.name], level, sign, self.fill)
        return image
