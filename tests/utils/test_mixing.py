"""Mixup and CutMix: the papers' formulas, and draws that depend on (seed, step, shard) alone."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.config import LossConfig
from utils.errors import UsageError
from utils.mixing import Mixing, blend, box, build_mixing, draw
from utils.randomness import MIXING, generator

Golden = Callable[[str], tuple[dict, dict[str, NDArray]]]
CLASSES = 10
LABELS = torch.arange(CLASSES)
# Image i is a one at place i: what comes out says which images went in, and with what share.
IMAGES = torch.eye(CLASSES, dtype=torch.float64).reshape(CLASSES, 1, 1, CLASSES).expand(-1, 3, 2, -1)


def build(config: LossConfig, seed: int = 0, classes: int = CLASSES) -> Mixing:
    """The mixing of a run of 9 epochs of 10 steps."""
    return build_mixing(config, seed, classes, 9, 10)


def mixed(seed: int = 0, step: int = 0, shard: int = 0, alpha: float = 0.4) -> tuple[Tensor, Tensor]:
    return build(LossConfig(mixup=alpha), seed)(IMAGES, LABELS, step, shard)


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
    mix = build(LossConfig(mixup=alpha), classes=2)
    # Two images that swap: the target of image 0 at 0 is the share. Where they stay themselves it says nothing.
    shares = torch.stack([mix(images, labels, step, 0)[1][0, 0] for step in range(4000)])
    shares = shares[shares < 1]
    assert 1800 < len(shares) < 2200 or alpha == 0.2  # of Beta(0.2, 0.2) some draws round to 1
    variance = 1 / (4 * (2 * alpha + 1))
    assert shares.mean().item() == pytest.approx(0.5, abs=5 * (variance / len(shares)) ** 0.5)
    assert shares.var().item() == pytest.approx(variance, rel=0.15)


def test_without_mixup_images_and_labels_are_handed_on() -> None:
    images, labels = build(LossConfig())(IMAGES, LABELS, 3, 1)
    assert images is IMAGES
    assert labels is LABELS


def test_a_single_image_is_its_own_partner() -> None:
    images, targets = build(LossConfig(mixup=0.5), classes=3)(torch.ones(1, 3, 2, 2), torch.tensor([2]), 0, 0)
    torch.testing.assert_close(images, torch.ones(1, 3, 2, 2))
    torch.testing.assert_close(targets, torch.tensor([[0.0, 0.0, 1.0]]))


def test_mixup_alone_draws_what_it_drew_before_cutmix_was_there() -> None:
    draw = generator(3, MIXING, 7, 1)
    share, partners = draw.beta(0.4, 0.4), draw.permutation(CLASSES)
    images, targets = mixed(seed=3, step=7, shard=1)
    assert torch.equal(images, torch.lerp(IMAGES[partners], IMAGES, share))
    assert torch.equal(targets, torch.lerp(torch.eye(CLASSES).double()[partners], torch.eye(CLASSES).double(), share))


# Image i has the value i everywhere: what comes out says whose each pixel is.
FLAT = torch.arange(CLASSES, dtype=torch.float64)[:, None, None, None].expand(-1, 3, 12, 16)


@pytest.mark.parametrize("per", ["batch", "image"])
def test_cutmix_targets_are_the_shares_of_pixels_after_clipping(per: str) -> None:
    cutmix = build(LossConfig(cutmix=1.0, mix_per=per))
    clipped = 0
    for step in range(20):
        images, targets = cutmix(FLAT, LABELS, step, 0)
        counts = torch.stack([(images == label).double().mean((1, 2, 3)) for label in range(CLASSES)], dim=1)
        torch.testing.assert_close(targets, counts, rtol=0, atol=1e-15)  # all pixels are somebody's, and only whole
        draws = draw(LossConfig(cutmix=1.0, mix_per=per), (0, step, 0), CLASSES, (12, 16))
        clipped += int((draws.boxes[:, :2] == 0).any() | (draws.boxes[:, 2:] == (12, 16)).any())
    assert clipped


@pytest.mark.parametrize("per", ["batch", "image"])
def test_what_cutmix_puts_in_is_one_box_of_the_partner(per: str) -> None:
    config = LossConfig(cutmix=1.0, mix_per=per)
    noise = torch.randn(CLASSES, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    for step in range(10):
        draws = draw(config, (0, step, 0), CLASSES, (12, 16))
        expected = noise.clone()
        for number, partner in enumerate(draws.partners):
            top, left, bottom, right = draws.boxes[number if per == "image" else 0]
            expected[number, :, top:bottom, left:right] = noise[partner, :, top:bottom, left:right]
        assert torch.equal(build(config)(noise, LABELS, step, 0)[0], expected)


def test_boxes_have_the_share_of_the_paper_before_clipping() -> None:
    shares = np.linspace(0, 1, 21)
    centre = np.tile([[500, 600]], (21, 1))
    for share, (top, left, bottom, right) in zip(shares, box((1000, 1200), shares, centre), strict=True):
        side = (1 - share) ** 0.5
        assert [bottom - top, right - left] == pytest.approx([1000 * side, 1200 * side], abs=2)
    assert box((10, 20), np.array([0.0]), np.array([[0, 19]])).tolist() == [[0, 9, 5, 20]]


def test_boxes_are_centred_evenly_and_wanted_shares_are_a_beta() -> None:
    config = LossConfig(cutmix=1.0, mix_per="image")
    boxes = np.concatenate([draw(config, (0, step, 0), 64, (224, 224)).boxes for step in range(60)])
    # A box is as often at one border as at the other, and as wide as high.
    top, left, bottom, right = (boxes / 224).mean(0)
    assert [top, left] == pytest.approx([1 - bottom, 1 - right], abs=0.02)
    assert top == pytest.approx(left, abs=0.02)
    whole = (boxes[:, 2:] - boxes[:, :2]).prod(1) / 224**2
    # E of the clipped area: sides of s = sqrt(u), u uniform, keep s - s^2 / 4 of a side on average; E (s - s^2/4)^2.
    assert whole.mean() == pytest.approx(1 / 2 - 2 / 4 * 2 / 5 + 1 / 16 / 3, abs=0.02)


def kinds(config: LossConfig, steps: int = 300) -> tuple[float, float]:
    """Of all decisions of so many steps: the share that was mixed, and of those the share that was cut."""
    draws = [draw(config, (0, step, 0), CLASSES, (8, 8)) for step in range(steps)]
    done, cut = (np.concatenate([getattr(it, name) for it in draws]) for name in ("mixed", "cut"))
    assert (done | ~cut).all()
    return done.mean(), cut.sum() / done.sum()


@pytest.mark.parametrize("per", ["batch", "image"])
@pytest.mark.parametrize(("prob", "switch"), [(1.0, 0.5), (0.3, 0.8)])
def test_probabilities_are_those_asked_for(per: str, prob: float, switch: float) -> None:
    config = LossConfig(mixup=0.2, cutmix=1.0, mix_prob=prob, mix_switch_prob=switch, mix_per=per)
    done, cut = kinds(config)
    assert done == pytest.approx(prob, abs=0.09)
    assert cut == pytest.approx(switch, abs=0.09)
    assert kinds(LossConfig(mixup=0.2))[1] == 0
    assert kinds(LossConfig(cutmix=0.2))[1] == 1


def test_where_nothing_is_mixed_images_and_labels_are_handed_on() -> None:
    config = LossConfig(cutmix=1.0, mix_prob=0.5)
    for step in range(20):
        images, targets = build(config)(FLAT, LABELS, step, 0)
        if draw(config, (0, step, 0), CLASSES, (12, 16)).mixed.any():
            assert targets.shape == (CLASSES, CLASSES)
        else:
            assert images is FLAT
            assert targets is LABELS


def test_images_are_mixed_each_for_itself() -> None:
    config = LossConfig(mixup=1.0, mix_per="image")
    images, targets = build(config)(IMAGES, LABELS, 0, 0)
    torch.testing.assert_close(images[:, 0, 0], targets, rtol=1e-14, atol=1e-15)
    assert len(targets.diagonal().unique()) > CLASSES // 2
    together = build(LossConfig(mixup=1.0))(IMAGES, LABELS, 0, 0)[1]
    own = together.diagonal()
    assert len(own[own < 1].unique()) == 1  # some are their own partners


def test_cutmix_is_a_function_of_seed_step_and_shard() -> None:
    config = LossConfig(mixup=0.4, cutmix=1.0, mix_per="image", mix_prob=0.7)
    places = [(seed, step, shard) for seed in (0, 1) for step in (0, 1, 50) for shard in (0, 1)]
    noise = torch.randn(CLASSES, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = {(seed, *place): build(config, seed)(noise, LABELS, *place)[0] for seed, *place in places}
    for seed, *place in reversed(places):
        np.random.rand(3)
        assert torch.equal(build(config, seed)(noise, LABELS, *place)[0], found[seed, *place])
    assert len({tuple(images.flatten().tolist()) for images in found.values()}) == len(places)


def test_nothing_is_mixed_from_the_off_epoch_on() -> None:
    mix = build(LossConfig(mixup=0.4, mixup_off_epoch=3))
    assert mix(IMAGES, LABELS, 29, 0)[1].shape == (CLASSES, CLASSES)
    for step in (30, 31, 89):
        assert mix(IMAGES, LABELS, step, 0)[0] is IMAGES


def test_memory_format_stays() -> None:
    images = torch.randn(4, 3, 8, 8).to(memory_format=torch.channels_last)
    for config in (LossConfig(mixup=1), LossConfig(cutmix=1), LossConfig(mixup=1, cutmix=1, mix_per="image")):
        found = build(config)(images, LABELS[:4], 0, 0)[0]
        assert found.is_contiguous(memory_format=torch.channels_last), config


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"mix_prob": 0.5}, "--mix-prob 0.5 has no effect"),
        ({"mix_per": "image"}, "--mix-per image has no effect"),
        ({"mixup_off_epoch": 3}, "--mixup-off-epoch 3 has no effect"),
        ({"mixup": 0.2, "mix_switch_prob": 0.3}, "needs both"),
        ({"cutmix": 0.2, "mix_switch_prob": 0.3}, "needs both"),
        ({"cutmix": 0.2, "mix_prob": 0.0}, "without effect"),
        ({"cutmix": 0.2, "mixup_off_epoch": 9}, "no effect in a run of 9 epochs"),
    ],
)
def test_flags_without_effect_are_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        build(LossConfig(**settings))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("per", ["batch", "image"])
def test_mixing_does_not_wait_for_the_device(per: str) -> None:
    mix = build(LossConfig(mixup=0.4, cutmix=1.0, mix_per=per))
    images, labels = FLAT.float().cuda(), LABELS.cuda()
    mix(images, labels, 0, 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(8):
            mix(images, labels, step, 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
