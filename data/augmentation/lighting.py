"""AlexNet's lighting (Krizhevsky et al. 2012, section 4.1): a shift of all pixels along ImageNet's principal colours.

It is done to uint8 pixels: the shift, one number a channel, is rounded to whole steps of 1 / 255, and what leaves
[0, 255] is cut off.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.augmentation.drawing import Floats, normals
from utils.randomness import LIGHTING

# Standard deviations of ImageNet's colours along their principal axes, as shares of 255, and the axes as columns, rows
# red, green, blue: the numbers that have been handed on since fb.resnet.torch (2016).
SPREADS = np.array([0.2175, 0.0188, 0.0045])
AXES = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])


@dataclass(frozen=True)
class Lighting:
    """Each principal colour is added `deviation` times its spread times a standard normal number."""

    deviation: float

    stream = LIGHTING
    draws = 6  # two for each normal number

    def __call__(self, image: Tensor, numbers: Floats) -> Tensor:
        """(3, h, w) uint8 to the same; `numbers` (draws,)."""
        shift = 255 * AXES @ (self.deviation * normals(numbers) * SPREADS)
        steps = torch.from_numpy(np.rint(shift).astype(np.int16)).view(3, 1, 1)
        return (image + steps).clamp_(0, 255).to(torch.uint8)
