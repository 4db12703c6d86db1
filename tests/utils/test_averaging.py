"""Averages of weights, against their formulas in Python numbers."""

import math

import pytest
import torch
from torch import nn

from utils.averaging import EqualAverage, WeightAverage, build_average, build_equal_average
from utils.config import ScheduleConfig, TrainingConfig
from utils.errors import UsageError

YES, NO = torch.tensor(True), torch.tensor(False)


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def floats(model: nn.Module) -> dict[str, list[float]]:
    return {k: v.double().flatten().tolist() for k, v in model.state_dict().items() if v.is_floating_point()}


def move(model: nn.Module, step: int) -> None:
    """Weights and statistics as some step of an optimizer leaves them."""
    draw = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.add_(1)
            else:
                tensor.copy_(torch.rand(tensor.shape, generator=draw))


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.9998, 1.0])
def test_average_follows_its_formula_where_steps_are_finite(decay: float) -> None:
    model = small()
    average = WeightAverage(model, decay)
    expected = floats(model)
    for step in range(12):
        finite = step % 3 != 1
        move(model, step)
        average.update(step, YES if finite else NO)
        if finite:
            for name, now in floats(model).items():
                pairs = zip(expected[name], now, strict=True)
                expected[name] = [decay * old + (1 - decay) * new for old, new in pairs]
        for name, values in floats(average.network).items():
            assert values == pytest.approx(expected[name], abs=2e-6), name  # float32, twelve steps
    assert len(expected) == 6


def test_skipped_step_leaves_every_bit_of_the_average() -> None:
    model = small()
    average = WeightAverage(model, 0.9)
    move(model, 1)
    average.update(0, YES)
    before = {name: value.clone() for name, value in average.network.state_dict().items()}
    move(model, 2)
    model[1].num_batches_tracked.sub_(1)  # a skipped step does not move the counter
    average.update(1, NO)
    for name, value in average.network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_counters_are_copied_and_the_average_is_for_evaluation() -> None:
    model = small()
    average = WeightAverage(model, 0.9)
    for step in range(3):
        move(model, step)
    average.update(0, YES)
    assert average.network[1].num_batches_tracked.item() == 3
    assert not average.network.training
    assert model.training
    assert not any(parameter.requires_grad for parameter in average.network.parameters())


def test_average_does_not_share_memory_with_the_weights() -> None:
    model = small()
    average = WeightAverage(model, 0.9)
    before = floats(average.network)
    move(model, 5)
    assert floats(average.network) == before


def test_restart_begins_from_the_weights_as_they_are() -> None:
    model = small()
    average = WeightAverage(model, 0.9)
    move(model, 1)
    average.restart(model)
    assert floats(average.network) == floats(model)
    move(model, 2)
    average.update(0, YES)
    move(model, 1)
    assert floats(average.network) != floats(model)


# The largest share kept by each step, from 0: timm's ModelEmaV3 with its own gamma and power, and TensorFlow's.
SHARES = {
    "off": lambda n: 0.9,
    "power": lambda n: min(0.9, 1 - 1 / (n + 1) ** (2 / 3)),
    "ratio": lambda n: min(0.9, (1 + n) / (10 + n)),
}


@pytest.mark.parametrize("warmup", SHARES)
def test_share_that_is_kept_grows_to_the_decay(warmup: str) -> None:
    model = small()
    average = WeightAverage(model, 0.9, warmup)
    expected = floats(model)["0.weight"]
    shares = []
    for step in range(120):
        move(model, step)
        average.update(step, YES)
        shares.append(SHARES[warmup](step))
        expected = [
            shares[-1] * old + (1 - shares[-1]) * new
            for old, new in zip(expected, floats(model)["0.weight"], strict=True)
        ]
        if step in (0, 1, 5, 119):
            assert floats(average.network)["0.weight"] == pytest.approx(expected, abs=2e-6)
    assert shares == sorted(shares)
    assert shares[-1] == 0.9
    assert {"off": 0.9, "power": 0.0, "ratio": 0.1}[warmup] == shares[0]


def test_average_that_warms_up_takes_the_first_weights_whole_or_by_nine_tenths() -> None:
    model = small()
    averages = [WeightAverage(model, 0.9998, warmup) for warmup in ("power", "ratio")]
    start = floats(model)["0.weight"]
    move(model, 1)
    for average in averages:
        average.update(0, YES)
    first = floats(model)["0.weight"]
    assert floats(averages[0].network)["0.weight"] == first
    mixed = [0.1 * old + 0.9 * new for old, new in zip(start, first, strict=True)]
    assert floats(averages[1].network)["0.weight"] == pytest.approx(mixed, abs=1e-6)


@pytest.mark.parametrize("buffers", ["average", "copy", "reestimate"])
def test_running_statistics_are_averaged_or_copied_and_weights_averaged(buffers: str) -> None:
    model = small()
    average = WeightAverage(model, 0.9, buffers=buffers)
    for step in range(3):
        move(model, step)
        average.update(step, YES)
    same = {name for name, values in floats(average.network).items() if values == floats(model)[name]}
    assert same == (set() if buffers == "average" else {"1.running_mean", "1.running_var"})
    assert average.reestimated == (buffers == "reestimate")
    assert average.network[1].num_batches_tracked.item() == 3


NO_EFFECT = [
    ({"model_ema_decay": 0.9}, "--model-ema-decay 0.9 has no effect without --model-ema"),
    ({"model_ema_warmup": "power"}, "--model-ema-warmup power has no effect without --model-ema"),
    ({"model_ema_buffers": "copy"}, "--model-ema-buffers copy has no effect without --model-ema"),
    ({"model_ema": True, "model_ema_buffers": "copy", "precise_bn": 3}, "--precise-bn estimates them"),
]


@pytest.mark.parametrize(("given", "message"), NO_EFFECT, ids=lambda value: str(value)[:40])
def test_settings_of_the_average_without_effect_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_average(small(), TrainingConfig(**given))


@pytest.mark.parametrize("buffers", ["copy", "reestimate"])
def test_network_without_statistics_refuses_to_do_anything_with_them(buffers: str) -> None:
    training = TrainingConfig(model_ema=True, model_ema_buffers=buffers)
    with pytest.raises(UsageError, match=f"--model-ema-buffers {buffers} has no effect: no norm of this network"):
        build_average(nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)), training)


def test_equal_average_is_the_mean_and_its_statistics_are_the_last() -> None:
    model = small()
    average = EqualAverage(model)
    seen = []
    for step in range(5):
        move(model, step)
        seen.append(floats(model))
        average.add()
        for name, values in floats(average.network).items():
            means = [math.fsum(column) / len(seen) for column in zip(*(one[name] for one in seen), strict=True)]
            expected = seen[-1][name] if "running" in name else means
            assert values == pytest.approx(expected, abs=1e-6), name
    assert average.count == 5
    assert not average.network.training


def test_equal_average_of_one_is_the_weights_to_the_bit() -> None:
    model = small()
    average = EqualAverage(model)
    move(model, 3)
    average.add()
    assert floats(average.network) == floats(model)


def test_equal_average_goes_on_from_its_state() -> None:
    model = small()
    alone, resumed = EqualAverage(model), EqualAverage(model)
    for step in range(4):
        move(model, step)
        alone.add()
        resumed.add()
        state = {name: value.clone() for name, value in resumed.state_dict().items()}
        resumed = EqualAverage(model)
        resumed.load_state_dict(state)
    assert resumed.count == 4
    assert floats(resumed.network) == floats(alone.network)


def test_no_equal_average_where_none_is_asked_for() -> None:
    assert build_equal_average(small(), ScheduleConfig()) is None
    assert build_equal_average(small(), ScheduleConfig(swa=3)).count == 0
