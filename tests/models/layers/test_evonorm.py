"""EvoNorm B0 and S0 against their formulas."""

import pytest
import torch
from torch import Tensor, nn

from models.layers.evonorm import EvoNormB0, EvoNormS0


def drawn(norm: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for tensor in (*norm.parameters(), *norm.buffers()):
        nn.init.uniform_(tensor, 0.5, 1.5)
    return norm.double()


def images() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(3, 8, 4, 5, dtype=torch.float64) * 2 + 1


def column(values: Tensor) -> Tensor:
    return values[None, :, None, None]


@pytest.mark.parametrize("training", [True, False])
def test_b0_divides_by_the_larger_of_batch_and_instance(training: bool) -> None:
    norm, x = drawn(EvoNormB0(8)).train(training), images()
    variance = x.transpose(0, 1).flatten(1).var(1) if training else norm.running_var.clone()
    instance = x.flatten(2).var(2)[..., None, None]
    scale = torch.maximum((column(variance) + 1e-5).sqrt(), column(norm.v) * x + (instance + 1e-5).sqrt())
    expected = x / scale * column(norm.weight) + column(norm.bias)
    torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)


def test_b0_moves_its_running_variance_as_batch_norm_does() -> None:
    x, theirs = images(), nn.BatchNorm2d(8).double()
    norm = EvoNormB0(8).double()
    norm(x), theirs(x)
    torch.testing.assert_close(norm.running_var, theirs.running_var, rtol=1e-12, atol=0)


def test_linear_b0_is_batch_norm_without_its_mean() -> None:
    norm, x = drawn(EvoNormB0(8, linear=True)).eval(), images()
    expected = x / column(norm.running_var + 1e-5).sqrt() * column(norm.weight) + column(norm.bias)
    torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)
    assert [name for name, _ in norm.named_parameters()] == ["weight", "bias"]


@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("linear", [True, False])
def test_s0_divides_a_swish_by_the_deviation_of_its_group(linear: bool, correction: int) -> None:
    norm, x = drawn(EvoNormS0(8, groups=4, linear=linear, correction=correction)), images()
    deviation = (x.reshape(3, 4, -1).var(2, correction=correction) + 1e-5).sqrt()
    deviation = deviation.repeat_interleave(2, dim=1)[..., None, None]  # of two channels each
    numerator = x if linear else x * torch.sigmoid(column(norm.v) * x)
    expected = numerator / deviation * column(norm.weight) + column(norm.bias)
    torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", [EvoNormB0(8), EvoNormS0(8, 4)])
def test_halves_stay_halves_and_one_position_is_enough(norm: nn.Module) -> None:
    y = norm(torch.randn(2, 8, 1, 1, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()
