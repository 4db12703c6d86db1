"""AugMix (Hendrycks et al., arXiv 1912.02781): an image mixed with the mean of three chains of operations.

The operations are the paper's nine: those on colours are left out, for they are among the corruptions of ImageNet-C.
alpha is 1, as in the paper, so the weights of the chains are uniform on the simplex and that of the original on [0, 1].
The mixture is rounded to uint8. The paper's loss on three views of an image (Jensen-Shannon) is not part of this.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.augmentation.drawing import Floats, choice
from data.augmentation.operations import Fill, Range, operate, space
from utils.randomness import AUTO_AUGMENT

WIDTH, DEPTH = 3, 3  # chains, and the most operations in one
LEVELS = 10
SPACE = space(0.3, Range(0, 1 / 3, signed=True, of_side=True), 30, (4, 0))
NAMES = tuple(SPACE)


@dataclass(frozen=True)
class AugMix:
    """Operations up to `severity` of LEVELS."""

    severity: int
    fill: Fill

    stream = AUTO_AUGMENT
    draws = 1 + WIDTH * (2 + 3 * DEPTH)  # share of the original; of each chain its weight, its depth, its operations

    def __call__(self, image: Tensor, numbers: Floats) -> Tensor:
        """(3, h, w) uint8 to the same; `numbers` (draws,)."""
        own, chains = numbers[0], numbers[1:].reshape(WIDTH, -1)
        weights = -np.log1p(-chains[:, 0])  # exponential numbers over their sum: Dirichlet's distribution for alpha 1
        weights *= (1 - own) / weights.sum()
        mixed = image.to(torch.float32) * own
        for weight, chain in zip(weights.tolist(), chains, strict=True):
            mixed += weight * self._chain(image, choice(chain[1], DEPTH) + 1, chain[2:].reshape(DEPTH, 3))
        return mixed.round_().clamp_(0, 255).to(torch.uint8)

    def _chain(self, image: Tensor, depth: int, numbers: Floats) -> Tensor:
        for which, strength, sign in numbers[:depth]:
            name = NAMES[choice(which, len(NAMES))]
            level = choice(strength, self.severity) / (LEVELS - 1)
            image = operate(image, name, SPACE[name], level, sign, self.fill)
        return image
