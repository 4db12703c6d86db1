"""3-Augment of DeiT III (Touvron et al., arXiv 2204.07118): each image is made grey, solarized or blurred.

The paper adds horizontal flips, and then colour jitter of 0.3: --color-jitter 0.3.
"""

from dataclasses import dataclass

from torch import Tensor
from torchvision.transforms.v2.functional import solarize

from data.augmentation.blur import blurred
from data.augmentation.drawing import Floats, between, choice
from data.augmentation.grayscale import without_colours
from utils.randomness import THREE_AUGMENT


@dataclass(frozen=True)
class ThreeAugment:
    """One of the three, each as likely; `threshold` of 255 for solarizing, `sigma` in pixels for blurring."""

    threshold: int
    sigma: tuple[float, float]

    stream = THREE_AUGMENT
    draws = 2  # which, how blurred

    def __call__(self, image: Tensor, numbers: Floats) -> Tensor:
        """(3, h, w) uint8 to the same; `numbers` (draws,)."""
        which = choice(numbers[0], 3)
        if which == 0:
            return without_colours(image)
        return solarize(image, self.threshold) if which == 1 else blurred(image, between(numbers[1], *self.sigma))
