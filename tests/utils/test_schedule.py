"""Learning rates: the ancestors' golden values (seeds.md 1.1), and the formulas in float64."""

import math
from collections.abc import Callable
from decimal import Decimal

import numpy as np
import pytest
from numpy.typing import NDArray

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


def test_rate_at_the_batch_is_given_or_scaled() -> None:
    assert peak_rate(OptimConfig(), 1024) == pytest.approx(0.4)
    assert peak_rate(OptimConfig(lr_base=0.05), 64) == pytest.approx(0.0125)
    assert peak_rate(OptimConfig(lr=0.3), 4096) == 0.3


MISTAKES = [
    (ScheduleConfig(epochs=5, warmup_epochs=5), "--warmup-epochs 5 leaves nothing of --epochs 5"),
    (ScheduleConfig(warmup_epochs=0, decay_from="start"), "--decay-from start changes nothing"),
    (ScheduleConfig(sched="step", min_lr=0.1), "--min-lr and --decay-from belong to --sched cosine"),
    (ScheduleConfig(sched="step", decay_from="start"), "--min-lr and --decay-from belong to --sched cosine"),
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
    with pytest.raises(UsageError, match=r"leave|belong"):
        build_schedule(ScheduleConfig(**unused), 0.1, 10)
