"""Random erasing (Zhong et al., arXiv 1708.04896), its geometry as in torchvision.

Others erase after normalization; here the pixels are uint8. So `const`, their zero, is the mean colour, rounded, and
`rand` and `pixel` are uniform on 0 ... 255 as in the paper, where timm's are normal numbers.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.augmentation.drawing import Floats, between, choice, log_between
from utils.randomness import ERASED_PIXELS, ERASING, generator

ATTEMPTS = 10  # to find a rectangle that fits, as torchvision and timm
PER_REGION = 2 * ATTEMPTS + 3  # area and ratio of each attempt, place down and across, the key of its colours


@dataclass(frozen=True)
class RandomErasing:
    """With `probability` `count` rectangles are erased.

    Each has a share `area` of the image's, divided by `count`, and a `ratio` of height over width. `mode` is "const"
    (`colour`, of 255), "rand" (one random colour) or "pixel" (one for each pixel).
    """

    probability: float
    mode: str
    count: int
    area: tuple[float, float]
    ratio: tuple[float, float]
    colour: tuple[int, int, int]

    stream = ERASING

    @property
    def draws(self) -> int:
        """Whether, and what each region needs."""
        return 1 + self.count * PER_REGION

    def __call__(self, image: Tensor, numbers: Floats) -> Tensor:
        """(3, h, w) uint8, changed; `numbers` (draws,)."""
        if numbers[0] < self.probability:
            for region in numbers[1:].reshape(self.count, PER_REGION):
                self._erase(image, region)
        return image

    def _erase(self, image: Tensor, numbers: Floats) -> None:
        height, width = image.shape[1:]
        for area, ratio in numbers[: 2 * ATTEMPTS].reshape(ATTEMPTS, 2):
            pixels = between(area, *self.area) * height * width / self.count
            shape = log_between(ratio, *self.ratio)
            down, across = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
            if down < height and across < width:
                top, left = choice(numbers[-3], height - down + 1), choice(numbers[-2], width - across + 1)
                image[:, top : top + down, left : left + across] = self._colours(numbers[-1], down, across)
                return

    def _colours(self, number: float, down: int, across: int) -> Tensor:
        """What a region is filled with: (3, 1, 1) or (3, down, across)."""
        if self.mode == "const":
            return torch.tensor(self.colour, dtype=torch.uint8).view(3, 1, 1)
        shape = (3, 1, 1) if self.mode == "rand" else (3, down, across)
        draw = generator(int(number * 2**53), ERASED_PIXELS)
        return torch.from_numpy(draw.integers(256, size=shape, dtype=np.uint8))
