"""Statistics estimated anew: against torch's update_bn and plain sums, on any number of processes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from models.freezing import keep_in_evaluation
from models.layers.evonorm import EvoNormB0
from tests.utils import batch_statistics_work
from tests.utils.batch_statistics_work import BATCHES, batch, network
from tests.utils.worlds import on_each_of
from utils.batch_statistics import keeps_statistics, reestimate
from utils.distributed import World

ALONE = World(0, 1, 0, torch.device("cpu"))
DOUBLE = torch.float64


def batches() -> list[Tensor]:
    return [batch(number, DOUBLE) for number in range(BATCHES)]


def copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_statistics_are_those_of_torchs_update_bn() -> None:
    ours, theirs = network(DOUBLE), network(DOUBLE)
    ours[3].p = theirs[3].p = 0.0  # torch leaves dropout in training
    with torch.no_grad():
        for model in (ours, theirs):
            model(batch(99, DOUBLE))  # statistics that must not matter
    reestimate(ours, batches(), ALONE)
    update_bn(batches(), theirs)
    for layer in (1, 5):
        for name in ("running_mean", "running_var"):
            expected = getattr(theirs[layer], name)
            torch.testing.assert_close(getattr(ours[layer], name), expected, rtol=1e-12, atol=1e-14)


def test_first_norms_statistics_are_plain_means_over_batches() -> None:
    model = network(DOUBLE)
    reestimate(model, batches(), ALONE)
    seen = [model[0](images).transpose(0, 1).flatten(1) for images in batches()]
    mean, variance = sum(x.mean(1) for x in seen) / BATCHES, sum(x.var(1) for x in seen) / BATCHES
    torch.testing.assert_close(model[1].running_mean, mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(model[1].running_var, variance, rtol=1e-12, atol=1e-14)


def test_pooled_variances_are_those_of_all_batches_together() -> None:
    model = network(DOUBLE)
    reestimate(model, batches(), ALONE, pooled=True)
    seen = [model[0](images).transpose(0, 1).flatten(1) for images in batches()]
    mean = sum(x.mean(1) for x in seen) / BATCHES
    variance = sum(x.var(1) + (x.mean(1) - mean).square() for x in seen) / BATCHES
    torch.testing.assert_close(model[1].running_mean, mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(model[1].running_var, variance, rtol=1e-12, atol=1e-14)


def test_nothing_else_changes_and_nothing_is_drawn() -> None:
    model = network()
    model.train()
    model[4].eval()
    before, generator = copies(model), torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    reestimate(model, [batch(0)], ALONE)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"{layer}.{name}" for layer in (1, 5) for name in ("running_mean", "running_var")}
    assert [module.training for module in model.modules()] == modes
    assert (model[1].momentum, model[1]._forward_hooks) == (0.1, {})
    assert torch.equal(torch.get_rng_state(), generator)


def test_statistics_that_were_not_finite_recover() -> None:
    model, sound = network(), network()
    model[1].running_mean.fill_(torch.inf)
    model[5].running_var.fill_(torch.nan)
    for one in (model, sound):
        reestimate(one, [batch(0), batch(1)], ALONE)
    assert all(map(torch.equal, model.buffers(), sound.buffers()))


def test_frozen_norms_stay() -> None:
    model = network()
    keep_in_evaluation(model[1])
    before = copies(model)
    reestimate(model, [batch(0)], ALONE)
    assert torch.equal(model[1].running_mean, before["1.running_mean"])
    assert not torch.equal(model[5].running_mean, before["5.running_mean"])


def test_norms_of_our_own_are_estimated_too() -> None:
    model = EvoNormB0(4)
    images = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    reestimate(model, [images], ALONE)
    torch.testing.assert_close(model.running_var, images.var((0, 2, 3)), rtol=1e-6, atol=0)


def test_network_without_statistics_asks_for_no_batch() -> None:
    def none() -> Tensor:
        raise AssertionError("a batch was asked for")
        yield

    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4))
    assert not keeps_statistics(model)
    assert keeps_statistics(network())
    reestimate(model, none(), ALONE)


def test_no_batches_are_a_mistake_that_changes_nothing() -> None:
    model = network()
    before = copies(model)
    with pytest.raises(ValueError, match="there are none"):
        reestimate(model, [], ALONE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_rank_has_the_bits_of_a_single_process(tmp_path: Path) -> None:
    expected = batch_statistics_work.reestimated(ALONE)
    for size in (2, 3):
        for found in on_each_of(size, batch_statistics_work.reestimated, tmp_path / str(size)):
            for name, value in expected.items():
                assert torch.equal(found[name], value), name
