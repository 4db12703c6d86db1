"""Mixup: the paper's formula, and draws that depend on (seed, step, shard) alone."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.config import LossConfig
from utils.mixing import blend, build_mixing

Golden = Callable[[str], tuple[dict, dict[str, NDArray]]]
CLASSES = 10
LABELS = torch.arange(CLASSES)
# Image i is a one at place i: what comes out says which images went in, and with what share.
IMAGES = torch.eye(CLASSES, dtype=torch.float64).reshape(CLASSES, 1, 1, CLASSES).expand(-1, 3, 2, -1)


def mixed(seed: int = 0, step: int = 0, shard: int = 0, alpha: float = 0.4) -> tuple[Tensor, Tensor]:
    return build_mixing(LossConfig(mixup=alpha), seed, CLASSES)(IMAGES, LABELS, step, shard)


@pytest.mark.parametrize("name", ["pi__mixup_data", "mz__mixup_data_flip"])
def test_blend_is_the_ancestors(name: str, golden: Golden) -> None:
    meta, arrays = golden(name)
    images = torch.tensor(arrays["in.x"], dtype=torch.float64)
    partners = torch.tensor(arrays.get("in.perm", np.arange(len(images))[::-1].copy()))
    assert (torch.tensor(arrays["in.y"])[partners] == torch.tensor(arrays["out.y_b"])).all()
    found = blend(images, images[partners], meta["lam"])
    torch.testing.assert_close(found, torch.tensor(arrays["out.x"]).double(), rtol=1e-6, atol=1e-6)  # theirs: float32


def test_blend_ends_in_either_image() -> None:
    ours, theirs = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).unbind()
    assert torch.equal(blend(ours, theirs, 1.0), ours)
    assert torch.equal(blend(ours, theirs, 0.0), theirs)


def test_images_and_targets_are_mixed_by_the_same_share_of_the_same_partners() -> None:
    for step in range(20):
        images, targets = mixed(step=step)
        assert images.shape == IMAGES.shape
        for channel in range(3):
            for row in range(2):
                torch.testing.assert_close(images[:, channel, row], targets, rtol=1e-14, atol=1e-15)


def test_targets_sum_to_one_and_every_image_is_once_a_partner() -> None:
    for step in range(20):
        targets = mixed(step=step)[1]
        torch.testing.assert_close(targets.sum(1), torch.ones(CLASSES, dtype=torch.float64), rtol=1e-14, atol=0)
        torch.testing.assert_close(targets.sum(0), torch.ones(CLASSES, dtype=torch.float64), rtol=1e-14, atol=0)
        assert ((targets > 0).sum(1) <= 2).all()


def test_mixing_is_a_function_of_seed_step_and_shard() -> None:
    places = [(seed, step, shard) for seed in (0, 1) for step in (0, 1, 500) for shard in (0, 1)]
    found = {place: mixed(*place)[1] for place in places}
    for place in reversed(places):
        torch.rand(3)
        np.random.rand(3)
        assert torch.equal(mixed(*place)[1], found[place])
    assert len({tuple(targets.flatten().tolist()) for targets in found.values()}) == len(places)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_have_the_moments_of_a_beta(alpha: float) -> None:
    images, labels = torch.zeros(2, 1, 1, 1, dtype=torch.float64), torch.tensor([0, 1])
    mix = build_mixing(LossConfig(mixup=alpha), 0, 2)
    # Two images that swap: the target of image 0 at 0 is the share. Where they stay themselves it says nothing.
    shares = torch.stack([mix(images, labels, step, 0)[1][0, 0] for step in range(4000)])
    shares = shares[shares < 1]
    assert 1800 < len(shares) < 2200 or alpha == 0.2  # of Beta(0.2, 0.2) some draws round to 1
    variance = 1 / (4 * (2 * alpha + 1))
    assert shares.mean().item() == pytest.approx(0.5, abs=5 * (variance / len(shares)) ** 0.5)
    assert shares.var().item() == pytest.approx(variance, rel=0.15)


def test_without_mixup_images_and_labels_are_handed_on() -> None:
    images, labels = build_mixing(LossConfig(), 0, CLASSES)(IMAGES, LABELS, 3, 1)
    assert images is IMAGES
    assert labels is LABELS


def test_a_single_image_is_its_own_partner() -> None:
    images, targets = build_mixing(LossConfig(mixup=0.5), 0, 3)(torch.ones(1, 3, 2, 2), torch.tensor([2]), 0, 0)
    torch.testing.assert_close(images, torch.ones(1, 3, 2, 2))
    torch.testing.assert_close(targets, torch.tensor([[0.0, 0.0, 1.0]]))
