"""Mixing of images and labels inside a shard, drawn from (seed, step, shard).

Mixup: Zhang et al. 2018, arXiv 1710.09412. One lambda and one permutation of partners for each shard.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from utils.config import LossConfig
from utils.randomness import MIXING, generator

Mixing = Callable[[Tensor, Tensor, int, int], tuple[Tensor, Tensor]]


def build_mixing(config: LossConfig, seed: int, classes: int) -> Mixing:
    """A function of images (n, 3, h, w), labels (n,), step and shard to mixed images and targets.

    Targets are the labels themselves where nothing is mixed, else shares of classes (n, classes).
    """
    if not config.mixup:
        return lambda images, labels, step, shard: (images, labels)

    def mixup(images: Tensor, labels: Tensor, step: int, shard: int) -> tuple[Tensor, Tensor]:
        draw = generator(seed, MIXING, step, shard)
        share = float(draw.beta(config.mixup, config.mixup))
        partners = torch.from_numpy(draw.permutation(len(labels))).to(images.device)
        targets = one_hot(labels, classes).to(images.dtype)
        return blend(images, images[partners], share), blend(targets, targets[partners], share)

    return mixup


def blend(ours: Tensor, theirs: Tensor, share: float) -> Tensor:
    """share * ours + (1 - share) * theirs."""
    return torch.lerp(theirs, ours, share)
