"""Switchable normalization: its three ends are torch's own norms, but for the sample's variance."""

import pytest
import torch
from torch import Tensor, nn

from models.layers.switchnorm import SwitchNorm2d

FAR = 100.0  # a softmax of it and zeros is 1 in float64
N, C, H, W = 3, 4, 5, 2


def images() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(N, C, H, W, dtype=torch.float64) * 2 + 1


def switched(to: int) -> SwitchNorm2d:
    norm = SwitchNorm2d(C).double()
    for logits in (norm.mean_weight, norm.var_weight):
        nn.init.zeros_(logits)
        logits.data[to] = FAR
    return norm


@pytest.mark.parametrize(("to", "dimensions"), [(0, (2, 3)), (1, (1, 2, 3)), (2, (0, 2, 3))])
def test_switched_to_one_statistic_it_is_that_norm(to: int, dimensions: tuple[int, ...]) -> None:
    x, norm = images(), switched(to)
    mean, variance = x.mean(dimensions, keepdim=True), x.var(dimensions, keepdim=True)
    torch.testing.assert_close(norm(x), (x - mean) / (variance + 1e-5).sqrt(), rtol=1e-10, atol=1e-10)


def test_it_starts_as_the_mean_of_three_statistics() -> None:
    x, norm = images(), SwitchNorm2d(C).double()
    places = ((2, 3), (1, 2, 3), (0, 2, 3))
    mean = sum(x.mean(place, keepdim=True) for place in places) / 3
    variance = sum(x.var(place, keepdim=True) for place in places) / 3
    torch.testing.assert_close(norm(x), (x - mean) / (variance + 1e-5).sqrt(), rtol=1e-10, atol=1e-10)


def test_running_statistics_are_batch_norms_and_serve_in_evaluation() -> None:
    x, norm, theirs = images(), switched(2), nn.BatchNorm2d(C).double()
    norm(x), theirs(x)
    torch.testing.assert_close(norm.running_mean, theirs.running_mean)
    torch.testing.assert_close(norm.running_var, theirs.running_var)
    torch.testing.assert_close(norm.eval()(x), theirs.eval()(x), rtol=1e-10, atol=1e-10)


def test_halves_stay_halves_and_one_position_is_enough() -> None:
    y = SwitchNorm2d(C)(torch.randn(N, C, 1, 1, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()
