"""The moving average of weights, against its formula in Python numbers."""

import pytest
import torch
from torch import nn

from utils.averaging import WeightAverage

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
        average.update(YES if finite else NO)
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
    average.update(YES)
    before = {name: value.clone() for name, value in average.network.state_dict().items()}
    move(model, 2)
    model[1].num_batches_tracked.sub_(1)  # a skipped step does not move the counter
    average.update(NO)
    for name, value in average.network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_counters_are_copied_and_the_average_is_for_evaluation() -> None:
    model = small()
    average = WeightAverage(model, 0.9)
    for step in range(3):
        move(model, step)
    average.update(YES)
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
    average.update(torch.tensor(True))
    move(model, 1)
    assert floats(average.network) != floats(model)
