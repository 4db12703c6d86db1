"""Mixing of images and labels inside a shard, drawn from (seed, step, shard).

Mixup (Zhang et al. 2018, arXiv 1710.09412) blends an image with a partner. CutMix (Yun et al. 2019, arXiv 1905.04899)
puts a box of the partner in its place. Targets are mixed by what is left of the image: the area outside the box as it
was clipped at the border. A shard has one permutation of partners, and one share and box, or one for each image.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.config import LossConfig
from utils.errors import UsageError
from utils.randomness import MIXING, generator

Mixing = Callable[[Tensor, Tensor, int, int], tuple[Tensor, Tensor]]

# What is drawn for a shard, each from a generator of its own, so that a flag changes the draws of none but itself.
BLEND, CHOICE, BOX = range(3)


@dataclass(frozen=True)
class Draws:
    """What is done to the n images of a shard: arrays for all of them together (1, ...), or for each (n, ...)."""

    partners: NDArray[np.int64]  # (n,)
    mixed: NDArray[np.bool_]
    cut: NDArray[np.bool_]  # by CutMix; those mixed and not cut are blended
    shares: NDArray[np.float64]  # of the image itself in its target
    boxes: NDArray[np.int64]  # top, left, bottom, right; empty where nothing is cut


def build_mixing(config: LossConfig, seed: int, classes: int, epochs: int, steps_per_epoch: int) -> Mixing:
    """A function of images (n, 3, h, w), labels (n,), step and shard to mixed images and targets.

    Targets are the labels themselves where nothing is mixed, else shares of classes (n, classes).
    """
    _refuse_unused(config, epochs)
    if not config.mixes:
        return lambda images, labels, step, shard: (images, labels)
    end = config.mixup_off_epoch * steps_per_epoch or math.inf
    mix = _mix_each if config.mix_per == "image" else _mix_together

    def mixing(images: Tensor, labels: Tensor, step: int, shard: int) -> tuple[Tensor, Tensor]:
        if step >= end:
            return images, labels
        draws = draw(config, (seed, step, shard), len(labels), images.shape[2:])
        if not draws.mixed.any():
            return images, labels
        return mix(images, shares_of(labels, classes, images.dtype), draws)

    return mixing


def shares_of(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """(n, classes): 1 at the label, else 0. Torch's one_hot asks a CPU's tensor for its largest label."""
    return (labels[:, None] == torch.arange(classes, device=labels.device)).to(dtype)


def _refuse_unused(config: LossConfig, epochs: int) -> None:
    plain = LossConfig()
    if not (config.mixup or config.cutmix):
        for flag in ("mix_prob", "mix_per", "mixup_off_epoch"):
            if getattr(config, flag) != getattr(plain, flag):
                told = f"--{flag.replace('_', '-')} {getattr(config, flag)}"
                raise UsageError(f"{told} has no effect where nothing is mixed; add --mixup or --cutmix")
    if config.mix_switch_prob != plain.mix_switch_prob and not (config.mixup and config.cutmix):
        told = f"--mix-switch-prob {config.mix_switch_prob:g}"
        raise UsageError(f"{told} is between --mixup and --cutmix, and needs both; add the other, or leave it out")
    if config.mix_prob == 0:
        raise UsageError("--mix-prob 0 leaves --mixup and --cutmix without effect; leave them out")
    if config.mixup_off_epoch >= epochs:
        raise UsageError(f"--mixup-off-epoch {config.mixup_off_epoch} has no effect in a run of {epochs} epochs")


def draw(config: LossConfig, place: tuple[int, int, int], images: int, size: tuple[int, int]) -> Draws:
    """What is done at `place` (seed, step, shard) to so many images of `size` (h, w), pixels."""
    seed, step, shard = place
    count = images if config.mix_per == "image" else 1
    blending = generator(seed, MIXING, step, shard, BLEND)
    shares = blending.beta(config.mixup, config.mixup, count) if config.mixup else np.ones(count)
    partners = blending.permutation(images)
    chance = generator(seed, MIXING, step, shard, CHOICE).random((2, count))
    mixed = chance[0] < config.mix_prob
    switch = config.mix_switch_prob if config.mixup else 1.0
    cut = mixed & (chance[1] < switch) if config.cutmix else np.zeros(count, dtype=bool)
    boxes = np.zeros((count, 4), dtype=np.int64)
    if config.cutmix:
        cutting = generator(seed, MIXING, step, shard, BOX)
        wanted = cutting.beta(config.cutmix, config.cutmix, count)
        boxes = box(size, wanted, cutting.integers(0, size, (count, 2))) * cut[:, None]
        shares = np.where(cut, share_outside(boxes, size), shares)
    return Draws(partners, mixed, cut, np.where(mixed, shares, 1.0), boxes)


def box(size: tuple[int, int], shares: NDArray[np.float64], centres: NDArray[np.int64]) -> NDArray[np.int64]:
    """Boxes (c, 4), top, left, bottom, right, clipped to an image of `size` (h, w).

    Unclipped, and but for whole pixels, one with sides sqrt(1 - share) of the image's leaves `shares` (c,) of it
    outside. `centres` (c, 2) are rows and columns.
    """
    half = (np.asarray(size) * np.sqrt(1 - shares)[:, None]).astype(np.int64) // 2
    return np.concatenate([np.clip(centres - half, 0, size), np.clip(centres + half, 0, size)], axis=1)


def share_outside(boxes: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.float64]:
    """The share of the area of an image (h, w) outside each of its boxes."""
    return 1 - (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) / math.prod(size)


def _mix_together(images: Tensor, targets: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """The same share or box for all images, which is known before the device has to be asked."""
    partners, share = _on_device(draws.partners, images), float(draws.shares[0])
    if draws.cut[0]:
        top, left, bottom, right = draws.boxes[0]
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images[:, :, top:bottom, left:right][partners]
    else:
        mixed = blend(images, images[partners], share)
    return mixed, blend(targets, targets[partners], share)


def _mix_each(images: Tensor, targets: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Every image by its own share or box: both are a weight of the image at each pixel."""
    partners, boxes = _on_device(draws.partners, images), _on_device(draws.boxes, images)
    numbers = np.stack([draws.shares, np.where(draws.cut, 1.0, draws.shares)], axis=1)
    shares, outside = _on_device(numbers, images).to(images.dtype).split(1, dim=1)  # (n, 1) each
    inside = _spans(boxes[:, 0], boxes[:, 2], images.shape[2])[:, None, :, None]
    inside = inside & _spans(boxes[:, 1], boxes[:, 3], images.shape[3])[:, None, None, :]  # (n, 1, h, w)
    weight = torch.where(inside, 0.0, outside[:, :, None, None])
    return blend(images, images[partners], weight), blend(targets, targets[partners], shares)


def _spans(begins: Tensor, ends: Tensor, length: int) -> Tensor:
    """(n, length): where each image's begin <= place < end."""
    places = torch.arange(length, device=begins.device)
    return (places >= begins[:, None]) & (places < ends[:, None])


def blend(ours: Tensor, theirs: Tensor, share: float | Tensor) -> Tensor:
    """share * ours + (1 - share) * theirs."""
    return torch.lerp(theirs, ours, share)


def _on_device(array: NDArray[np.generic], beside: Tensor) -> Tensor:
    """On the device of `beside`, without a wait: a copy from memory that is not pinned would stop the step for it."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(beside.device, non_blocking=True) if beside.is_cuda else tensor
