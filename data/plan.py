"""What happens to each image: crop, flip and more, drawn from (seed, epoch, index), whatever batch or engine it is in.

A plan is numbers relative to an image's own size; given the sizes of a batch it yields the `Views` of its images, and
every engine carries out the same views. What comes after crop and flip is `data.augmentation`'s.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.augmentation.chain import Chain, build_chain
from data.growth import Growth, build_growth
from utils.config.data import DataConfig
from utils.errors import UsageError
from utils.randomness import CROP, FLIP, uniforms

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

ATTEMPTS = 10  # of RandomResizedCrop, as in torchvision
SMALL = 64  # pixels: up to this --img-size the automatic training crop is pad-and-crop, the custom for CIFAR
RESIZE_PER_CROP = 1 / 0.875  # validation: shorter side 256 for a crop of 224 (Krizhevsky et al. 2012)

# Of images longer than this times their shorter side validation takes the middle, for the centre crop shows no more:
# resized whole, one of 65,500 x 1 pixels would fill 17 GB.
ELONGATION = 16


class Views(NamedTuple):
    """How n images are seen: `boxes` are cut out and resized to `sizes`; then comes the square window at `corners`.

    The side of the window is the plan's `side(epoch)`; where it reaches beyond the resized box it is zero. It is
    mirrored where `flips` is true.
    """

    boxes: Integers  # (n, 4) left, top, width, height, in pixels of the image
    sizes: Integers  # (n, 2) width, height
    corners: Integers  # (n, 2) left, top, in pixels of the resized box, negative in the padding
    flips: NDArray[np.bool_]  # (n,)


@dataclass(frozen=True)
class RandomResizedCrop:
    """A box of random area and shape, resized to a square (Szegedy et al., arXiv:1409.4842), as torchvision draws it.

    `scale` bounds the share of the image's area, `ratio` width over height.
    """

    side: int
    scale: tuple[float, float]
    ratio: tuple[float, float]

    shows_all = True
    draws = 2 * ATTEMPTS + 2  # area and ratio of each attempt, place across and down

    def place(self, numbers: Floats, widths: Integers, heights: Integers) -> tuple[Integers, Integers]:
        """Boxes (n, 4) and corners (n, 2) for `numbers` (n, draws) in [0, 1) and the sizes of n images."""
        shapes = self._shapes(numbers[:, : 2 * ATTEMPTS], widths, heights)
        fits = (shapes > 0).all(axis=2) & (shapes[..., 0] <= widths[:, None]) & (shapes[..., 1] <= heights[:, None])
        sizes = np.stack([widths, heights], axis=1)
        room = sizes - shapes[np.arange(len(sizes)), fits.argmax(axis=1)]
        corners = np.floor(numbers[:, -2:] * (room + 1)).astype(np.int64)
        found = np.concatenate([corners, sizes - room], axis=1)
        boxes = np.where(fits.any(axis=1)[:, None], found, self._centres(widths, heights))
        return boxes, np.zeros_like(sizes)

    def _shapes(self, numbers: Floats, widths: Integers, heights: Integers) -> Integers:
        """Width and height of every attempt: (n, ATTEMPTS, 2), possibly larger than the image or zero."""
        low, high = self.scale
        areas = (widths * heights)[:, None] * (low + (high - low) * numbers[:, :ATTEMPTS])
        low, high = np.log(self.ratio)
        ratios = np.exp(low + (high - low) * numbers[:, ATTEMPTS:])
        return np.rint(np.stack([np.sqrt(areas * ratios), np.sqrt(areas / ratios)], axis=2)).astype(np.int64)

    def _centres(self, widths: Integers, heights: Integers) -> Integers:
        """The box (n, 4) if no attempt fits: the largest one in the middle whose shape `ratio` allows."""
        low, high = self.ratio
        across = np.minimum(widths, np.maximum(1, np.rint(heights * high)).astype(np.int64))
        down = np.minimum(heights, np.maximum(1, np.rint(widths / low)).astype(np.int64))
        return np.stack([(widths - across) // 2, (heights - down) // 2, across, down], axis=1)


@dataclass(frozen=True)
class PadCrop:
    """A small image, or the middle square of any other resized to `side`, shifted by up to `pad` pixels over zeros."""

    side: int
    pad: int

    shows_all = False
    draws = 2  # shift across and down

    def place(self, numbers: Floats, widths: Integers, heights: Integers) -> tuple[Integers, Integers]:
        """Boxes (n, 4) and corners (n, 2) for `numbers` (n, 2) in [0, 1) and the sizes of n images."""
        square = np.minimum(widths, heights)
        boxes = np.stack([(widths - square) // 2, (heights - square) // 2, square, square], axis=1)
        return boxes, np.floor(numbers * (2 * self.pad + 1)).astype(np.int64) - self.pad


@dataclass(frozen=True)
class TrainPlan:
    """What a training image goes through: a random crop to `crop.side` pixels, a flip with probability `hflip`, ..."""

    seed: int
    crop: RandomResizedCrop | PadCrop
    hflip: float
    interpolation: str
    augmentations: Chain | None = None  # after the flip
    growth: Growth | None = None

    def side(self, epoch: int) -> int:
        """Side of every image that comes out in an epoch, in pixels."""
        return self.growth.side(epoch) if self.growth else self.crop.side

    @property
    def shows_all(self) -> bool:
        """Whether the window is always the whole of the resized box."""
        return self.crop.shows_all

    def views(
        self, epoch: int, indices: Integers, widths: Integers, heights: Integers, copies: Integers | None = None
    ) -> Views:
        """The views of the images `indices` (n,) in one epoch, each a function of (seed, epoch, index, copy, size)."""
        numbers = uniforms(self.seed, CROP, epoch, indices, self.crop.draws, copies)
        boxes, corners = self.crop.place(numbers, widths, heights)
        sizes = np.full_like(corners, self.side(epoch))
        flips = uniforms(self.seed, FLIP, epoch, indices, 1, copies)[:, 0] < self.hflip
        return Views(boxes, sizes, corners, flips)


@dataclass(frozen=True)
class ValPlan:
    """What a validation image goes through: shorter side to `resize` pixels, then the middle `crop`; as torchvision."""

    resize: int
    crop: int
    interpolation: str

    shows_all = False
    augmentations = None

    def side(self, epoch: int) -> int:
        """Side of every image that comes out, in pixels."""
        return self.crop

    def views(
        self, epoch: int, indices: Integers, widths: Integers, heights: Integers, copies: Integers | None = None
    ) -> Views:
        """The views of n images; the same in every epoch."""
        full = np.stack([widths, heights], axis=1)
        shorter = full.min(axis=1, keepdims=True)
        seen = np.minimum(full, ELONGATION * shorter)
        # torchvision's Resize cuts the longer side down to whole pixels, its CenterCrop rounds half to even.
        sizes = self.resize * seen // shorter
        corners = np.rint((sizes - self.crop) / 2).astype(np.int64)
        return Views(np.concatenate([(full - seen) // 2, seen], axis=1), sizes, corners, np.zeros(len(full), np.bool_))


Plan = TrainPlan | ValPlan


def training_plan(config: DataConfig, seed: int) -> TrainPlan:
    """The plan that the settings ask for in training. UsageError if the ends of a range are exchanged."""
    for flag, (low, high) in (("--scale", config.scale), ("--ratio", config.ratio)):
        if low > high:
            raise UsageError(f"{flag} {low:g} {high:g} is empty; give the smaller number first")
    _refuse_unused(config)
    random_resized = RandomResizedCrop(config.img_size, config.scale, config.ratio)
    crop = PadCrop(config.img_size, config.pad) if _pads(config) else random_resized
    growth = build_growth(config, _pads(config))
    return TrainPlan(seed, crop, config.hflip, config.interpolation, build_chain(config, seed), growth)


def _refuse_unused(config: DataConfig) -> None:
    """A flag of the other crop was changed for nothing. UsageError."""
    crop, others = ("pad", ("scale", "ratio")) if _pads(config) else ("random-resized", ("pad",))
    for name in others:
        if getattr(config, name) != getattr(DataConfig(), name):
            raise UsageError(f"--{name} has no effect on --train-crop {crop}; leave it out, or choose the other crop")


def validation_plan(config: DataConfig) -> ValPlan:
    """The plan that the settings ask for in validation. UsageError if the crop is larger than the resized image."""
    crop = config.val_crop or config.img_size
    usual = crop if _pads(config) else round(crop * RESIZE_PER_CROP)
    resize = config.val_resize or usual
    if crop > resize:
        raise UsageError(f"--val-crop {crop} is larger than --val-resize {resize}; use at most {resize} pixels")
    return ValPlan(resize, crop, config.interpolation)


def _pads(config: DataConfig) -> bool:
    """Whether training images are padded and cropped, not cropped and resized."""
    return config.train_crop == "pad" or (config.train_crop == "auto" and config.img_size <= SMALL)
