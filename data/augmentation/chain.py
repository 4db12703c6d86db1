"""The augmentations of a run in their order: drawn for a whole batch at once, carried out image by image on the CPU.

They see uint8 pixels, (3, h, w), after crop and flip and before normalization, in this order (timm's, with what it
lacks put where its kind is): rotation; three-augment; auto-augment or colour jitter; greyscale; blur; solarize;
lighting; cutout; erasing. Each draws from a stream of its own, so switching one on changes nothing of the others.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.augmentation.augmix import AugMix
from data.augmentation.auto_augment import WRITTEN, AutoAugment, pairs
from data.augmentation.blur import GaussianBlur
from data.augmentation.cutout import RectangleCutout, SquareCutout
from data.augmentation.drawing import Floats
from data.augmentation.erasing import RandomErasing
from data.augmentation.grayscale import Grayscale
from data.augmentation.jitter import HUE, ColorJitter
from data.augmentation.lighting import Lighting
from data.augmentation.operations import Fill
from data.augmentation.rand_augment import RandAugment
from data.augmentation.rotation import Rotation
from data.augmentation.solarize import Solarize
from data.augmentation.three_augment import ThreeAugment
from data.augmentation.trivial_augment import TrivialAugment
from data.channels import IMAGENET
from utils.config.data import DataConfig
from utils.errors import UsageError
from utils.randomness import uniforms

Integers = NDArray[np.int64]

# What says how an augmentation is done, and has no effect without one of those that are.
NEEDS = {
    "color_jitter_prob": ("color_jitter",),
    "blur_sigma": ("gaussian_blur", "three_augment"),
    "solarize_threshold": ("solarize", "three_augment"),
    "cutout_size": ("cutout",),
    "cutout_prob": ("cutout",),
    "erasing_mode": ("random_erasing",),
    "erasing_count": ("random_erasing",),
    "erasing_area": ("random_erasing",),
    "erasing_ratio": ("random_erasing",),
}
# Of --auto-augment: which of them each is for.
NEEDS_KIND = {
    "aa_policy": ("aa",),
    "ra_magnitude": ("ra",),
    "ra_ops": ("ra",),
    "augmix_severity": ("augmix",),
    "aa_fill": ("aa", "ra", "ta", "augmix"),
}
# Two that do the same thing to an image in other words.
EITHER = (
    ("auto_augment", "color_jitter"),
    ("three_augment", "grayscale"),
    ("three_augment", "solarize"),
    ("three_augment", "gaussian_blur"),
)
RANGES = ("blur_sigma", "erasing_area", "erasing_ratio")
RECTANGLES = 0.5  # probability of a rectangular cutout, as in ModelZoo.pytorch


class Augmentation(Protocol):
    """One kind: as many `draws` in [0, 1) of its `stream` for each image, and what it makes of an image and them."""

    stream: int
    draws: int

    def __call__(self, image: Tensor, numbers: Floats) -> Tensor:
        """(3, h, w) uint8 to the same; the image itself may be changed. `numbers` (draws,)."""


@dataclass(frozen=True)
class Chain:
    """Augmentations one after the other, drawn from (seed, epoch, index, copy)."""

    seed: int
    links: tuple[Augmentation, ...]

    def carry_out(self, images: Tensor, epoch: int, indices: Integers, copies: Integers | None) -> None:
        """Change `images` (n, h, w, 3) uint8, those of `indices` (n,), of which it is the `copies`th time (n,)."""
        numbers = [self._numbers(link, epoch, indices, copies) for link in self.links]
        with one_thread():
            for row, image in enumerate(images.permute(0, 3, 1, 2)):
                changed = image.contiguous()  # kernels take up to nine times as long on channels_last
                for link, drawn in zip(self.links, numbers, strict=True):
                    changed = link(changed, drawn[row])
                image.copy_(changed)

    def _numbers(self, link: Augmentation, epoch: int, indices: Integers, copies: Integers | None) -> Floats:
        """What a link draws for each image: (n, draws)."""
        if not getattr(link, "shared", False):
            return uniforms(self.seed, link.stream, epoch, indices, link.draws, copies)
        first = uniforms(self.seed, link.stream, epoch, indices[:1], link.draws, None if copies is None else copies[:1])
        return np.repeat(first, len(indices), axis=0)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch's operations in one thread: loaders have threads of their own, and a sum depends on how it is divided."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def build_chain(config: DataConfig, seed: int) -> Chain | None:
    """The augmentations that the settings ask for, None if none. UsageError if some are at odds or without effect."""
    _refuse_mistakes(config)
    links = [build(config) for name, build in BUILDERS.items() if _is_on(config, name)]
    return Chain(seed, tuple(links)) if links else None


def asked_for(config: DataConfig) -> str | None:
    """The flag of the first augmentation that is on, for an engine that has none."""
    on = [name for name in BUILDERS if _is_on(config, name)]
    return _flag(on[0]) if on else None


def _color_jitter(config: DataConfig) -> ColorJitter:
    given = config.color_jitter
    if len(given) not in (1, 3, 4):
        told = " ".join(f"{strength:g}" for strength in given)
        raise UsageError(f"--color-jitter {told}: give one number, or brightness contrast saturation, and hue or not")
    strengths = (*(given * 3 if len(given) == 1 else given), 0.0)[:4]
    if strengths[HUE] > 0.5:
        raise UsageError(f"--color-jitter turns the hue by {strengths[HUE]:g}; use at most 0.5, half a turn")
    return ColorJitter(strengths, config.color_jitter_prob)


def _auto_augment(config: DataConfig) -> Augmentation:
    fill: Fill = None if config.aa_fill is None else 3 * [float(config.aa_fill)]
    if config.auto_augment == "aa":
        return AutoAugment(pairs(WRITTEN[config.aa_policy]), fill)
    if config.auto_augment == "ra":
        return RandAugment(config.ra_ops, config.ra_magnitude, fill)
    return TrivialAugment(fill) if config.auto_augment == "ta" else AugMix(config.augmix_severity, fill)


def _cutout(config: DataConfig) -> Augmentation:
    given = config.cutout_prob
    if config.cutout == "rectangle":
        if config.cutout_size is not None:
            raise UsageError("--cutout-size has no effect on --cutout rectangle, whose size is drawn; leave it out")
        return RectangleCutout(RECTANGLES if given is None else given)
    shared = config.cutout == "batch"
    return SquareCutout(config.cutout_size, 1.0 if given is None else given, _mean_colour(config), shared)


def _erasing(config: DataConfig) -> RandomErasing:
    return RandomErasing(
        config.random_erasing,
        config.erasing_mode,
        config.erasing_count,
        config.erasing_area,
        config.erasing_ratio,
        _mean_colour(config),
    )


# In the order in which they are carried out.
BUILDERS: dict[str, Callable[[DataConfig], Augmentation]] = {
    "rotation": lambda config: Rotation(config.rotation),
    "three_augment": lambda config: ThreeAugment(config.solarize_threshold, config.blur_sigma),
    "auto_augment": _auto_augment,
    "color_jitter": _color_jitter,
    "grayscale": lambda config: Grayscale(config.grayscale),
    "gaussian_blur": lambda config: GaussianBlur(config.gaussian_blur, config.blur_sigma),
    "solarize": lambda config: Solarize(config.solarize, config.solarize_threshold),
    "lighting": lambda config: Lighting(config.lighting),
    "cutout": _cutout,
    "random_erasing": _erasing,
}


def _mean_colour(config: DataConfig) -> tuple[int, int, int]:
    """What normalization makes zero, as nearly as uint8 can: red, green, blue."""
    red, green, blue = (round(255 * mean) for mean in config.mean or IMAGENET["mean"])
    return red, green, blue


def _refuse_mistakes(config: DataConfig) -> None:
    """UsageError for settings that are at odds, without effect, or no range."""
    usual = DataConfig()
    for one, other in EITHER:
        if _is_on(config, one) and _is_on(config, other):
            raise UsageError(f"{_flag(one)} takes the place of {_flag(other)}; give one of them")
    for name, parents in NEEDS.items():
        if getattr(config, name) != getattr(usual, name) and not any(_is_on(config, parent) for parent in parents):
            raise UsageError(f"{_flag(name)} has no effect without {' or '.join(map(_flag, parents))}; give both")
    for name, kinds in NEEDS_KIND.items():
        if getattr(config, name) != getattr(usual, name) and config.auto_augment not in kinds:
            raise UsageError(f"{_flag(name)} is for --auto-augment {' '.join(kinds)} only; leave it out")
    for name in RANGES:
        low, high = getattr(config, name)
        if low > high:
            raise UsageError(f"{_flag(name)} {low:g} {high:g} is empty; give the smaller number first")


def _is_on(config: DataConfig, name: str) -> bool:
    """Whether an augmentation does anything: `--color-jitter 0`, as --random-erasing 0, does not."""
    value = getattr(config, name)
    return any(value) if isinstance(value, tuple) else bool(value)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
