"""Every row of the table of norms: the type that it takes and gives, and that its statistics are kept in float32."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from models.layers import Layers
from models.layers.normalization import NORMALIZATIONS
from utils.config import ModelConfig

ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-11}  # relative, of one number
CHANNELS, GROUPS = 24, 4


class Half(TorchFunctionMode):
    """Records the types that group norms and layer norms are called with, as long as autocast is on: on CUDA it would
    copy them to float32 there, which it does not do on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.copied: list[torch.dtype] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (functional.group_norm, functional.layer_norm) and torch.is_autocast_enabled("cpu"):
            self.copied.append(args[0].dtype)
        return function(*args, **(kwargs or {}))


def drawn(norm: str) -> nn.Sequential:
    """The norm and activation of a row with gains, biases and statistics that are not ones and zeros, in float64."""
    torch.manual_seed(0)
    layer = nn.Sequential(*Layers(ModelConfig(norm=norm, norm_groups=GROUPS)).norm_act(CHANNELS)).double()
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return layer


def answers(layer: nn.Module, x: Tensor, seed: Tensor) -> list[Tensor]:
    """Output, gradients of the input and of the parameters, buffers afterwards."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", x.dtype, enabled=x.dtype in ROUNDING):
        y = layer(x)
    assert y.dtype == x.dtype
    y.backward(seed.to(y.dtype))
    return [y.detach(), x.grad, *(parameter.grad for parameter in layer.parameters()), *layer.buffers()]


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("norm", NORMALIZATIONS)
def test_half_precision_differs_from_float64_by_the_rounding_of_what_goes_in_and_out(
    norm: str, dtype: torch.dtype
) -> None:
    layer = drawn(norm)
    x, seed = torch.randn(2, 4, CHANNELS, 6, 7).to(dtype).to(memory_format=torch.channels_last_3d)
    exact = answers(copy.deepcopy(layer), x.double(), seed.double())
    for found, wanted in zip(answers(layer.float(), x, seed), exact, strict=True):
        assert (found.double() - wanted).norm() <= ROUNDING[dtype] * wanted.double().norm() + 1e-6


@pytest.mark.parametrize("norm", [name for name, row in NORMALIZATIONS.items() if row.norm or row.ends])
def test_autocast_finds_no_norm_to_copy_to_float32(norm: str) -> None:
    layers = Layers(ModelConfig(norm=norm, norm_groups=GROUPS))
    modules = [layers.norm(CHANNELS), *(layers.end_norm_act(CHANNELS) or ())]
    with Half() as half, torch.autocast("cpu", torch.bfloat16):
        for module in modules:
            assert module(torch.randn(2, CHANNELS, 5, 5).bfloat16()).dtype == torch.bfloat16
    assert not half.copied


@pytest.mark.parametrize("groups", (1, GROUPS))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_group_norm_is_torchs_to_the_bit_without_autocast(groups: int, dtype: torch.dtype) -> None:
    ours = Layers(ModelConfig(norm="gn", norm_groups=groups)).norm(CHANNELS).to(dtype)
    theirs = nn.GroupNorm(groups, CHANNELS).to(dtype)
    x, seed = torch.randn(2, 4, CHANNELS, 6, 7, dtype=dtype)
    assert all(map(torch.equal, answers(ours, x, seed), answers(theirs, x, seed)))
