"""Cutout (DeVries and Taylor, arXiv 1708.04552), and what two ancestors made of it.

The paper covers a square of each image, centred anywhere, so part of it may lie outside. Its zeros after normalization
are the mean colour before, which uint8 pixels hold rounded. PytorchInsight covers the same place in a whole batch.
ModelZoo.pytorch covers, in half of the images, a rectangle of random size inside, with one random grey (in the seed a
mistake makes it a red).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from data.augmentation.drawing import Floats, between, choice
from utils.randomness import CUTOUT

AREA = (0.02, 0.4)  # of ModelZoo.pytorch's rectangle: share of the image's
RATIO = (0.4, 2.5)  # height over width


def cover_square(image: Tensor, row: int, column: int, size: int, colour: Tensor | float) -> Tensor:
    """`image` (..., h, w), changed: the square around (row, column) has `colour`, as far as it lies inside.

    Its side is `size`, or one less where that is odd, as in the paper's code.
    """
    half = size // 2
    image[..., max(row - half, 0) : row + half, max(column - half, 0) : column + half] = colour
    return image


@dataclass(frozen=True)
class SquareCutout:
    """With `probability` a square of `size` pixels is covered with `colour`, red, green and blue of 255.

    Without a `size` it is half as wide as the image: the paper's 16 of CIFAR's 32 pixels, PytorchInsight's 112 of 224.
    `shared`: at the same place in a whole batch, as drawn for its first image.
    """

    size: int | None
    probability: float
    colour: tuple[int, int, int]
    shared: bool

    stream = CUTOUT
    draws = 3  # whether, centre down and across

    def __call__(self, image: Tensor, numbers: Floats) -> Tensor:
        """(3, h, w) uint8, changed; `numbers` (draws,)."""
        if numbers[0] >= self.probability:
            return image
        row, column = (choice(number, side) for number, side in zip(numbers[1:], image.shape[1:], strict=True))
        colour = torch.tensor(self.colour, dtype=torch.uint8).view(3, 1, 1)
        return cover_square(image, row, column, self.size or image.shape[-1] // 2, colour)


@dataclass(frozen=True)
class RectangleCutout:
    """With `probability` a rectangle inside is covered with one random grey."""

    probability: float

    stream = CUTOUT
    draws = 6  # whether, area, ratio, place down and across, grey

    def __call__(self, image: Tensor, numbers: Floats) -> Tensor:
        """(3, h, w) uint8, changed; `numbers` (draws,)."""
        if numbers[0] >= self.probability:
            return image
        height, width = image.shape[1:]
        area, ratio = between(numbers[1], *AREA) * height * width, between(numbers[2], *RATIO)
        across, down = int(math.sqrt(area / ratio)), int(math.sqrt(area * ratio))
        top, left = choice(numbers[3], height - down + 1), choice(numbers[4], width - across + 1)
        image[:, top : top + down, left : left + across] = choice(numbers[5], 256)
        return image
