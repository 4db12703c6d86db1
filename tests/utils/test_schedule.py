"""Learning rates: the ancestors' golden values (seeds.md 1.1), and the formulas in float64."""

import dataclasses
import math
from collections.abc import Callable
from decimal import Decimal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from utils.config import OptimConfig, ScheduleConfig
from utils.errors import UsageError
from utils.schedule import build_schedule, peak_rate

Golden = Callable[[str], tuple[dict, dict[str, NDArray]]]
STEPS = 1251  # an ImageNet epoch at a global batch of 1024

MODEL_ZOO = ScheduleConfig(epochs=120, warmup_epochs=5)
INSIGHT_MOBILE = ScheduleConfig(epochs=300, warmup_epochs=5)
INSIGHT_FAST = ScheduleConfig(epochs=100, warmup_epochs=5, sched_per_epoch=True, decay_from="start")

# (settings, peak, step, learning rate to the digits that are known), all of seeds.md 1.1
GOLDEN = [
    (MODEL_ZOO, 0.4, 0, "6.395e-5"),
    (MODEL_ZOO, 0.4, 1250, "0.080000000"),
    (MODEL_ZOO, 0.4, 6253, "0.39993605"),
    (MODEL_ZOO, 0.4, 6254, "0.40000000"),
    (MODEL_ZOO, 0.4, 75059, "0.21364848"),
    (MODEL_ZOO, 0.4, 150118, "0.00000000"),
    (INSIGHT_MOBILE, 0.4, 0, "6.395e-5"),
    (INSIGHT_MOBILE, 0.4, 4 * STEPS + 1250, "0.40000000"),
    (INSIGHT_MOBILE, 0.4, 5 * STEPS, "0.40000000"),
    (INSIGHT_MOBILE, 0.4, 150 * STEPS, "0.2053224"),
    (INSIGHT_MOBILE, 0.4, 299 * STEPS + 1250, "0.00000000"),
    (INSIGHT_FAST, 0.1, 0, "0.02000000"),
    (INSIGHT_FAST, 0.1, 4 * STEPS, "0.10000000"),
    (INSIGHT_FAST, 0.1, 5 * STEPS, "0.099384"),
    (INSIGHT_FAST, 0.1, 50 * STEPS, "0.05000000"),
    (INSIGHT_FAST, 0.1, 99 * STEPS, "2.5e-5"),
]


@pytest.mark.parametrize(("config", "peak", "step", "expected"), GOLDEN)
def test_rates_are_those_of_the_ancestors(config: ScheduleConfig, peak: float, step: int, expected: str) -> None:
    last_digit = 10.0 ** Decimal(expected).as_tuple().exponent
    assert build_schedule(config, peak, STEPS)(step) == pytest.approx(float(expected), abs=0.51 * last_digit, rel=0)


def test_every_step_is_model_zoos(golden: Golden) -> None:
    meta, arrays = golden("mz__CosineWarmupLr")
    given = meta["args"]
    config = ScheduleConfig(epochs=given["epochs"], warmup_epochs=given["warmup_epochs"], min_lr=given["target_lr"])
    rate = build_schedule(config, given["base_lr"], given["batches"])
    found = [rate(step) for step in range(given["epochs"] * given["batches"])]
    np.testing.assert_allclose(found, arrays["out.lr_used_at_iteration"], rtol=1e-9, atol=1e-10)


def test_every_step_is_insights_mobile_trainers(golden: Golden) -> None:
    meta, arrays = golden("pi__CosineAnnealingLR_iter")
    config = ScheduleConfig(epochs=meta["T_max"], warmup_epochs=meta["warmup"], min_lr=meta["eta_min"])
    rate = build_schedule(config, meta["base_lr"], meta["N_batch"])
    expected = arrays["out.lr_epoch_by_iter"].ravel()
    np.testing.assert_allclose([rate(step) for step in range(expected.size)], expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("sched", ["cosine", "step"])
def test_every_epoch_is_insights_fast_trainers(sched: str, golden: Golden) -> None:
    meta, arrays = golden("pi__adjust_learning_rate_epoch")
    given, steps = meta["args"], 7
    common = {"epochs": given["epochs"], "warmup_epochs": given["warmup"], "sched_per_epoch": True, "sched": sched}
    steps_down = {"milestones": tuple(given["schedule"]), "gamma": given["gamma"]}
    own = {"decay_from": "start"} if sched == "cosine" else steps_down
    rate = build_schedule(ScheduleConfig(**common, **own), given["lr"], steps)
    expected = arrays["out.lr_cos" if sched == "cosine" else "out.lr_step"].repeat(steps)
    np.testing.assert_allclose([rate(step) for step in range(expected.size)], expected, rtol=1e-9, atol=1e-10)


def test_step_schedule_falls_at_the_first_step_of_each_milestone() -> None:
    config = ScheduleConfig(epochs=10, sched="step", warmup_epochs=0, milestones=(3, 7), gamma=0.5)
    rate = build_schedule(config, 0.8, 4)
    expected = [0.8] * 12 + [0.4] * 16 + [0.2] * 12
    assert [rate(step) for step in range(40)] == pytest.approx(expected, rel=1e-12)


def test_milestone_inside_the_warm_up_counts_after_it() -> None:
    config = ScheduleConfig(epochs=10, sched="step", warmup_epochs=4, milestones=(2, 6), gamma=0.1)
    rate = build_schedule(config, 1.0, 5)
    assert [rate(5 * epoch) for epoch in (4, 5, 6)] == pytest.approx([0.1, 0.1, 0.01])


def test_warm_up_rises_by_equal_steps_from_its_own_start() -> None:
    rate = build_schedule(ScheduleConfig(epochs=10, warmup_epochs=1.5, warmup_lr=0.01), 0.31, 10)
    found = [rate(step) for step in range(15)]
    assert found == pytest.approx([0.01 + 0.3 * (step + 1) / 15 for step in range(15)], rel=1e-12)
    assert rate(15) < 0.31


def test_cosine_ends_at_the_smallest_rate_and_halves_its_way_there() -> None:
    rate = build_schedule(ScheduleConfig(epochs=9, warmup_epochs=1, min_lr=0.02), 0.1, 10)
    assert rate(89) == pytest.approx(0.02, rel=1e-12)
    assert rate(9 + 40) == pytest.approx(0.06, rel=1e-12)
    assert rate(9 + 20) == pytest.approx(0.06 + 0.04 * math.sqrt(0.5), rel=1e-12)


def test_per_epoch_schedule_holds_through_each_epoch() -> None:
    rate = build_schedule(ScheduleConfig(epochs=6, warmup_epochs=2, sched_per_epoch=True), 0.4, 5)
    rates = [rate(step) for step in range(30)]
    expected = [0.2, 0.4, *(0.2 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4))]
    assert rates == pytest.approx(np.repeat(expected, 5).tolist(), rel=1e-12)


def of_torch(scheduler: Callable[..., LRScheduler], peak: float, count: int, **options: object) -> list[float]:
    """The rates of the first `count` steps, or epochs, of one of torch's schedulers."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    scheduler = scheduler(optimizer, **options)
    rates = []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


# Ours a value an epoch, torch's scheduler, and its options: what ancestors and torchvision step once an epoch.
HELD = [
    ({"sched": "cosine"}, lr_scheduler.CosineAnnealingLR, {"T_max": 12}),
    ({"sched": "cosine", "min_lr": 0.01}, lr_scheduler.CosineAnnealingLR, {"T_max": 12, "eta_min": 0.01}),
    ({"sched": "cosine", "cycles": 3}, lr_scheduler.CosineAnnealingWarmRestarts, {"T_0": 4}),
    (
        {"sched": "cosine", "cycles": 2, "cycle_mul": 2.0, "min_lr": 0.01},
        lr_scheduler.CosineAnnealingWarmRestarts,
        {"T_0": 4, "T_mult": 2, "eta_min": 0.01},
    ),
    ({"sched": "linear"}, lr_scheduler.PolynomialLR, {"total_iters": 12}),
    ({"sched": "polynomial"}, lr_scheduler.PolynomialLR, {"total_iters": 12, "power": 2.0}),
    ({"sched": "polynomial", "poly_power": 0.9}, lr_scheduler.PolynomialLR, {"total_iters": 12, "power": 0.9}),
    ({"sched": "polynomial", "cooldown_epochs": 4.0}, lr_scheduler.PolynomialLR, {"total_iters": 8, "power": 2.0}),
    ({"sched": "exponential", "gamma": 0.97}, lr_scheduler.ExponentialLR, {"gamma": 0.97}),
    ({"sched": "onecycle", "warmup_epochs": 3.6}, lr_scheduler.OneCycleLR, {"max_lr": 0.3, "total_steps": 12}),
]


@pytest.mark.parametrize(("own", "scheduler", "options"), HELD, ids=str)
def test_held_rates_are_those_of_torchs_schedulers(
    own: dict[str, object], scheduler: Callable[..., LRScheduler], options: dict[str, object]
) -> None:
    config = ScheduleConfig(**{"epochs": 12, "warmup_epochs": 0.0, "sched_per_epoch": True, **own})
    rate = build_schedule(config, 0.3, 5)
    expected = np.repeat(of_torch(scheduler, 0.3, 12, **options), 5)
    np.testing.assert_allclose([rate(step) for step in range(60)], expected, rtol=1e-9, atol=1e-12)


def test_steps_every_so_many_epochs_are_those_of_torchs_step_lr() -> None:
    rate = build_schedule(ScheduleConfig(epochs=12, sched="step", warmup_epochs=0.0, decay_epochs=5.0), 0.3, 4)
    expected = np.repeat(of_torch(lr_scheduler.StepLR, 0.3, 12, step_size=5), 4)
    np.testing.assert_allclose([rate(step) for step in range(48)], expected, rtol=1e-12)


def test_fractional_steps_fall_inside_epochs_or_are_held() -> None:
    """EfficientNet's 0.97 every 2.4 epochs, of ten steps each."""
    config = ScheduleConfig(epochs=12, sched="step", warmup_epochs=0.0, decay_epochs=2.4, gamma=0.97)
    rate = build_schedule(config, 1.0, 10)
    assert [rate(step) for step in range(120)] == pytest.approx([0.97 ** (step // 24) for step in range(120)])
    held = build_schedule(dataclasses.replace(config, sched_per_epoch=True), 1.0, 10)
    assert [held(step) for step in range(30)] == pytest.approx([1.0] * 30)
    assert held(30) == pytest.approx(0.97)


@pytest.mark.parametrize(("sched", "strategy"), [("onecycle", "cos"), ("triangle", "linear")])
@pytest.mark.parametrize(("warmup", "divisors"), [(3.0, (25.0, 1e4)), (1.0, (10.0, 100.0)), (0.5, (4.0, 1.0))])
def test_one_cycle_is_torchs_step_by_step(
    sched: str, strategy: str, warmup: float, divisors: tuple[float, float]
) -> None:
    names = {"div_factor": divisors[0], "final_div_factor": divisors[1]}
    config = ScheduleConfig(epochs=10, sched=sched, warmup_epochs=warmup, **names)
    rate = build_schedule(config, 0.3, 20)
    options = {"max_lr": 0.3, "total_steps": 200, "pct_start": warmup / 10, "anneal_strategy": strategy, **names}
    expected = of_torch(lr_scheduler.OneCycleLR, 0.3, 200, cycle_momentum=False, **options)
    np.testing.assert_allclose([rate(step) for step in range(200)], expected, rtol=1e-9, atol=1e-15)


def test_one_cycle_that_need_not_rise_starts_at_the_peak() -> None:
    for warmup in (0.0, 0.1):
        rate = build_schedule(ScheduleConfig(epochs=4, sched="triangle", warmup_epochs=warmup), 0.3, 10)
        assert rate(0) == pytest.approx(0.3, rel=0.03)
        assert rate(39) == pytest.approx(0.3 / 25e4)


def test_line_after_a_linear_warm_up_is_a_triangle() -> None:
    """FFCV's: numpy's interpolation between the start, the peak and the end."""
    config = ScheduleConfig(epochs=16, sched="linear", warmup_epochs=2.0, warmup_lr=5e-5)
    rate = build_schedule(config, 0.5, 10)
    expected = np.interp((np.arange(160) + 1) / 10, [0, 2, 16], [5e-5, 0.5, 0])
    np.testing.assert_allclose([rate(step) for step in range(160)], expected, rtol=1e-12, atol=1e-15)


def test_restarts_are_sgdrs_and_a_cycle_ends_at_the_smallest_rate() -> None:
    """eta_min + (eta_max - eta_min) (1 + cos(pi T_cur / T_i)) / 2, with cycles of 2, 4 and 8 epochs of 5 steps."""
    config = ScheduleConfig(epochs=15, warmup_epochs=1, cycles=3, cycle_mul=2.0, cycle_decay=0.5, min_lr=0.01)
    rate = build_schedule(config, 0.4, 5)
    expected = []
    for steps, top in ((10, 0.4), (20, 0.2), (40, 0.1)):
        expected += [0.01 + (top - 0.01) * (1 + math.cos(math.pi * (i + 1) / steps)) / 2 for i in range(steps)]
    assert [rate(step) for step in range(5, 75)] == pytest.approx(expected, rel=1e-12)
    assert [rate(step) for step in (14, 34, 74)] == pytest.approx([0.01] * 3, rel=1e-9)


def test_exponential_is_a_power_of_the_epochs_and_not_below_its_floor() -> None:
    config = ScheduleConfig(
        epochs=10, sched="exponential", gamma=0.5, decay_epochs=2.0, min_lr=0.03, warmup_epochs=2, cooldown_epochs=4
    )
    rate = build_schedule(config, 0.4, 10)
    expected = [0.4 * 0.5 ** (min((step + 1) / 10 - 2, 4) / 2) for step in range(20, 100)]
    assert [rate(step) for step in range(20, 100)] == pytest.approx(expected, rel=1e-12)
    assert min(expected) == pytest.approx(0.1)
    floored = build_schedule(dataclasses.replace(config, cooldown_epochs=0.0), 0.1, 10)
    assert floored(99) == 0.03


@pytest.mark.parametrize("sched", ["cosine", "linear", "polynomial", "onecycle", "triangle"])
def test_cool_down_keeps_the_last_rate(sched: str) -> None:
    whole = build_schedule(ScheduleConfig(epochs=7, sched=sched, warmup_epochs=2), 0.4, 10)
    cooled = build_schedule(ScheduleConfig(epochs=10, sched=sched, warmup_epochs=2, cooldown_epochs=3.0), 0.4, 10)
    assert [cooled(step) for step in range(70)] == pytest.approx([whole(step) for step in range(70)], abs=1e-15)
    assert {cooled(step) for step in range(70, 100)} == {cooled(69)}


def test_constant_warm_up_stays_and_jumps() -> None:
    config = ScheduleConfig(epochs=6, sched="constant", warmup_epochs=1.5, warmup_lr=0.02, warmup_method="constant")
    rate = build_schedule(config, 0.4, 10)
    assert [rate(step) for step in range(60)] == [0.02] * 15 + [0.4] * 45
    held = build_schedule(dataclasses.replace(config, sched_per_epoch=True), 0.4, 10)
    assert [held(step) for step in range(60)] == [0.02] * 20 + [0.4] * 40


def test_rate_of_swa_holds_after_its_epoch() -> None:
    config = ScheduleConfig(epochs=6, warmup_epochs=1, swa=4, swa_lr=0.05)
    rate, plain = build_schedule(config, 0.4, 10), build_schedule(ScheduleConfig(epochs=6, warmup_epochs=1), 0.4, 10)
    assert [rate(step) for step in range(40)] == [plain(step) for step in range(40)]
    assert [rate(step) for step in range(40, 60)] == [0.05] * 20


def test_rate_at_the_batch_is_given_or_scaled() -> None:
    assert peak_rate(OptimConfig(), 1024) == pytest.approx(0.4)
    assert peak_rate(OptimConfig(lr_base=0.05), 64) == pytest.approx(0.0125)
    assert peak_rate(OptimConfig(lr=0.3), 4096) == 0.3


MISTAKES = [
    (ScheduleConfig(epochs=5, warmup_epochs=5), "--warmup-epochs 5 leaves nothing of --epochs 5"),
    (ScheduleConfig(warmup_epochs=0, decay_from="start"), "--decay-from start changes nothing"),
    (ScheduleConfig(sched="step", min_lr=0.1), "--min-lr has no effect on --sched step: it belongs to .*cosine"),
    (ScheduleConfig(sched="step", decay_from="start"), "--decay-from has no effect on --sched step"),
    (ScheduleConfig(sched="onecycle", warmup_lr=0.1), "--warmup-lr has no effect on --sched onecycle"),
    (ScheduleConfig(sched="onecycle", warmup_method="constant"), "--warmup-method has no effect on --sched onecycle"),
    (ScheduleConfig(sched="step", cooldown_epochs=3.0), "--cooldown-epochs has no effect on --sched step"),
    (ScheduleConfig(sched="constant", gamma=0.5), "--gamma has no effect on --sched constant"),
    (
        ScheduleConfig(decay_epochs=3.0),
        "--decay-epochs has no effect on --sched cosine: it belongs to --sched step, exp",
    ),
    (ScheduleConfig(sched="linear", cycles=2), "--cycles has no effect on --sched linear"),
    (ScheduleConfig(sched="linear", poly_power=1.0), "--poly-power has no effect on --sched linear"),
    (ScheduleConfig(div_factor=10.0), "--div-factor has no effect on --sched cosine"),
    (ScheduleConfig(sched="linear", final_div_factor=10.0), "--final-div-factor has no effect on --sched linear"),
    (ScheduleConfig(cycle_mul=2.0), "--cycle-mul and --cycle-decay have no effect on a single cycle"),
    (ScheduleConfig(cycle_decay=0.5), "--cycle-mul and --cycle-decay have no effect on a single cycle"),
    (ScheduleConfig(epochs=9, cooldown_epochs=9.0), "--cooldown-epochs 9 leaves nothing of --epochs 9"),
    (ScheduleConfig(epochs=9, cooldown_epochs=4.0), "--warmup-epochs 5 and --cooldown-epochs 4 leave nothing"),
    (ScheduleConfig(warmup_method="constant"), "--warmup-method constant stays at --warmup-lr .* give both"),
    (ScheduleConfig(sched="step", decay_epochs=5.0, milestones=(4,)), "--decay-epochs and --milestones are both"),
    (ScheduleConfig(epochs=90, sched="step", milestones=(150, 225)), "falls nowhere in --epochs 90: first at 150"),
    (ScheduleConfig(epochs=90, sched="step", milestones=()), "falls nowhere in --epochs 90: first at none"),
    (ScheduleConfig(epochs=20, sched="step", decay_epochs=20.0), "falls nowhere in --epochs 20: first at 20"),
    (ScheduleConfig(sched="step", warmup_epochs=0.0, sched_per_epoch=True), "--sched-per-epoch changes nothing"),
    (ScheduleConfig(sched="constant", warmup_epochs=0.0, sched_per_epoch=True), "--sched-per-epoch changes nothing"),
    (ScheduleConfig(min_lr=0.2), "--min-lr 0.2 is above --lr, which is 0.1 at this batch"),
    (ScheduleConfig(swa_lr=0.2), "--swa-lr 0.2 has no effect without --swa"),
    (ScheduleConfig(epochs=20, swa=20), "--swa 20 leaves nothing to average of --epochs 20"),
]


@pytest.mark.parametrize(("config", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_schedules_that_cannot_be_are_refused(config: ScheduleConfig, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_schedule(config, 0.1, 10)


def test_two_rates_exclude_each_other() -> None:
    with pytest.raises(UsageError, match=r"--lr 0.1 and --lr-base 0.2 exclude each other"):
        peak_rate(OptimConfig(lr=0.1, lr_base=0.2), 256)


@pytest.mark.parametrize(
    "unused",
    [
        {"milestones": (3,)},
        {"gamma": 0.5},
        {"warmup_epochs": 0.0, "warmup_lr": 0.1},
        {"sched": "step", "min_lr": 0.1},
        {"sched": "step", "decay_from": "start"},
    ],
    ids=str,
)
def test_setting_that_changes_nothing_is_refused(unused: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"leave it out"):
        build_schedule(ScheduleConfig(**unused), 0.1, 10)
