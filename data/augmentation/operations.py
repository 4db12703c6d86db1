"""The operations that AutoAugment and its successors choose from, and how strong each is at a level in [0, 1].

Pixels are those of torchvision's transforms of the same names (bilinear), whose units the strengths have: shear as a
slope, shifts in pixels, turns in degrees, colours as difference of a factor from 1, bits that are kept, a threshold of
255. For a *signed* operation the sign is drawn too.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

BILINEAR = InterpolationMode.BILINEAR
Fill = list[float] | None  # what turns and shifts uncover, a value a channel; None is black


def _moved(image: Tensor, fill: Fill, shift: tuple[int, int] = (0, 0), slope: tuple[float, float] = (0, 0)) -> Tensor:
    """Shifted by whole pixels, or sheared with the upper left corner fixed."""
    shear = [math.degrees(math.atan(part)) for part in slope]
    center = [0.0, 0.0] if any(slope) else None
    return F.affine(image, 0.0, list(shift), 1.0, shear, interpolation=BILINEAR, fill=fill, center=center)


# Each of an image (3, h, w) uint8, a strength, and a fill.
OPERATIONS: dict[str, Callable[[Tensor, float, Fill], Tensor]] = {
    "identity": lambda image, strength, fill: image,
    "shear-x": lambda image, strength, fill: _moved(image, fill, slope=(strength, 0)),
    "shear-y": lambda image, strength, fill: _moved(image, fill, slope=(0, strength)),
    "translate-x": lambda image, strength, fill: _moved(image, fill, shift=(int(strength), 0)),
    "translate-y": lambda image, strength, fill: _moved(image, fill, shift=(0, int(strength))),
    "rotate": lambda image, strength, fill: F.rotate(image, strength, interpolation=BILINEAR, fill=fill),
    "brightness": lambda image, strength, fill: F.adjust_brightness(image, 1 + strength),
    "color": lambda image, strength, fill: F.adjust_saturation(image, 1 + strength),
    "contrast": lambda image, strength, fill: F.adjust_contrast(image, 1 + strength),
    "sharpness": lambda image, strength, fill: F.adjust_sharpness(image, 1 + strength),
    "posterize": lambda image, strength, fill: F.posterize(image, int(strength)),
    "solarize": lambda image, strength, fill: F.solarize(image, strength),
    "auto-contrast": lambda image, strength, fill: F.autocontrast(image),
    "equalize": lambda image, strength, fill: F.equalize(image),
    "invert": lambda image, strength, fill: F.invert(image),
}


class Range(NamedTuple):
    """How strong an operation is, from level 0 to level 1; `of_side`: as a share of the image's side."""

    weakest: float = 0.0
    strongest: float = 0.0
    signed: bool = False
    of_side: bool = False
    whole: bool = False

    def strength(self, level: float, side: int) -> float:
        """In the operation's own units, for an image of `side` pixels."""
        value = (self.weakest + (self.strongest - self.weakest) * level) * (side if self.of_side else 1)
        return round(value) if self.whole else value


Space = Mapping[str, Range]

PLAIN = Range()
COLOURS = ("brightness", "color", "contrast", "sharpness")


def space(shear: float, shift: Range, turn: float, bits: tuple[int, int]) -> dict[str, Range]:
    """The geometric operations, posterize and solarize, of the given strongest strengths."""
    return {
        "shear-x": Range(0, shear, signed=True),
        "shear-y": Range(0, shear, signed=True),
        "translate-x": shift,
        "translate-y": shift,
        "rotate": Range(0, turn, signed=True),
        "posterize": Range(*bits, whole=True),
        "solarize": Range(255, 0),
        "auto-contrast": PLAIN,
        "equalize": PLAIN,
    }


def colours(most: float) -> dict[str, Range]:
    """The operations on colours, of a strongest strength."""
    return {name: Range(0, most, signed=True) for name in COLOURS}


def operate(image: Tensor, name: str, found: Range, level: float, sign: float, fill: Fill) -> Tensor:
    """One operation at `level`; `sign` in [0, 1): below a half the other way, where there is one."""
    strength = found.strength(level, image.shape[-1])
    return OPERATIONS[name](image, -strength if found.signed and sign < 0.5 else strength, fill)
