"""Attentions against their formulas, on images that are not square."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import Layers
from models.layers.attention import (
    BottleneckAttention,
    ConvolutionalBlockAttention,
    EfficientChannelAttention,
    GlobalContext,
    SpatialGroupEnhance,
    SqueezeExcitation,
    StyleRecalibration,
)
from models.layers.selective import SelectiveKernel
from utils.config import ModelConfig

C = 32
EXACT = {"rtol": 1e-10, "atol": 1e-10}

# seeds.md 1.1: x = arange(16) / 10 as (1, 4, 2, 2), two groups, weight 0.5, bias 1.
SGE = [0, 0.069134, 0.153478, 0.248799, 0.241309, 0.345668, 0.460434, 0.580531]
SGE += [0.482609, 0.622199, 0.767392, 0.912269, 0.723913, 0.898733, 1.074349, 1.244004]


def images() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, C, 5, 3, dtype=torch.float64)


def drawn(module: nn.Module) -> nn.Module:
    """In evaluation, nothing at zero or one."""
    torch.manual_seed(1)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.1, 0.5)
    return module.double().eval()


def linear(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """x: (n, c) -> (n, c_out)."""
    return x @ layer.weight.flatten(1).T + layer.bias


def spread(gates: Tensor) -> Tensor:
    return gates[:, :, None, None]


def batch_norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)


def test_squeeze_excitation_gates_channels_by_their_means() -> None:
    x, module = images(), drawn(SqueezeExcitation(C, 4))
    hidden = linear(x.flatten(2).mean(2), module.fc1).relu()
    torch.testing.assert_close(module(x), x * spread(linear(hidden, module.fc2).sigmoid()), **EXACT)


def test_spatial_group_enhance_gives_the_golden_numbers() -> None:
    module = SpatialGroupEnhance(2).double()
    nn.init.constant_(module.weight, 0.5)
    y = module(torch.arange(16, dtype=torch.float64).view(1, 4, 2, 2) / 10)
    torch.testing.assert_close(y.flatten(), torch.tensor(SGE, dtype=torch.float64), rtol=0, atol=5e-7)


def test_cbam_gates_channels_then_positions_by_mean_and_maximum() -> None:
    x, module = images() - 0.5, drawn(ConvolutionalBlockAttention(C, 4, nn.BatchNorm2d))
    channel, spatial = module.channel, module.spatial
    pools = (x.flatten(2).mean(2), x.flatten(2).max(2).values)
    y = x * spread(sum(linear(linear(pool, channel.fc1).relu(), channel.fc2) for pool in pools).sigmoid())
    extremes = torch.stack([y.max(1).values, y.mean(1)], 1)
    gates = batch_norm(F.conv2d(extremes, spatial.conv.weight, padding=3), spatial.bn)
    torch.testing.assert_close(module(x), y * gates.sigmoid(), **EXACT)


def test_bam_multiplies_what_channels_and_positions_say() -> None:
    x, module = images(), drawn(BottleneckAttention(C, 4, nn.BatchNorm2d))
    fc1, norm, _, fc2 = module.channel
    hidden = batch_norm(spread(linear(x.flatten(2).mean(2), fc1)), norm)[:, :, 0, 0].relu()
    channel, y = linear(hidden, fc2), x
    for i, dilation in ((0, 1), (3, 4), (6, 4)):
        conv, norm = module.spatial[i], module.spatial[i + 1]
        padding = dilation * (conv.weight.shape[-1] // 2)
        y = batch_norm(F.conv2d(y, conv.weight, conv.bias, padding=padding, dilation=dilation), norm).relu()
    position = F.conv2d(y, module.spatial[9].weight, module.spatial[9].bias)
    torch.testing.assert_close(module(x), x * (1 + (spread(channel) * position).sigmoid()), **EXACT)


@pytest.mark.parametrize("attended", [True, False])
@pytest.mark.parametrize("fusions", [("add",), ("mul",), ("mul", "add")])
def test_global_context_is_the_same_everywhere(attended: bool, fusions: tuple[str, ...]) -> None:
    x, module = images(), drawn(GlobalContext(C, 4, attended=attended, fusions=fusions))
    flat = x.flatten(2)
    shares = torch.ones(2, 1, 15, dtype=torch.float64) / 15
    if attended:
        shares = (torch.einsum("oc,ncp->nop", module.mask.weight.flatten(1), flat) + module.mask.bias).softmax(2)
    context = torch.einsum("ncp,nop->nc", flat, shares)

    def transformed(layers: nn.Sequential) -> Tensor:
        hidden = F.layer_norm(linear(context, layers.fc1), (4,), layers.norm.weight, layers.norm.bias)
        return spread(linear(hidden.relu(), layers.fc2))

    expected = x * transformed(module.mul).sigmoid() if "mul" in fusions else x
    expected = expected + transformed(module.add) if "add" in fusions else expected
    torch.testing.assert_close(module(x), expected, **EXACT)


def test_style_recalibration_weighs_mean_and_deviation_of_each_channel() -> None:
    x, module = images(), drawn(StyleRecalibration(C, nn.BatchNorm2d))
    mean, deviation = x.flatten(2).mean(2), (x.flatten(2).var(2, correction=0) + 1e-5).sqrt()
    style = module.weight[:, 0] * mean + module.weight[:, 1] * deviation
    torch.testing.assert_close(module(x), x * batch_norm(spread(style), module.bn).sigmoid(), **EXACT)


def test_efficient_channel_attention_looks_at_neighbours() -> None:
    x, module = images(), drawn(EfficientChannelAttention(C))
    means, width = F.pad(x.flatten(2).mean(2), (1, 1)), 3
    logits = sum(module.conv.weight[0, 0, i] * means[:, i : i + C] for i in range(width))
    torch.testing.assert_close(module(x), x * spread(logits.sigmoid()), **EXACT)


@pytest.mark.parametrize(("channels", "width"), [(64, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7)])
def test_efficient_channel_attention_is_as_wide_as_its_authors(channels: int, width: int) -> None:
    """The authors' rule: the integer part of log2(c) / 2 + 1/2, or the odd number after it."""
    assert EfficientChannelAttention(channels).conv.kernel_size == (width,)


def test_selective_kernels_mix_branches_by_channel() -> None:
    options = [{"groups": 1}, {"groups": 4, "dilation": 2}]
    x, module = images(), drawn(SelectiveKernel(C, 8, 4, options, Layers(ModelConfig())))
    branches = [
        batch_norm(F.conv2d(x, module.conv1.weight, padding=1), module.bn1).relu(),
        batch_norm(F.conv2d(x, module.conv2.weight, padding=2, groups=4, dilation=2), module.bn2).relu(),
    ]
    means = sum(branches).flatten(2).mean(2)
    hidden = batch_norm(spread(means @ module.fc1.weight.flatten(1).T), module.bn_fc)[:, :, 0, 0].relu()
    first, second = (hidden @ module.fc2.weight.flatten(1).T).split(8, 1)
    share = spread((first - second).sigmoid())  # a softmax of two
    torch.testing.assert_close(module(x), share * branches[0] + (1 - share) * branches[1], **EXACT)


@pytest.mark.parametrize(
    "module",
    [
        SqueezeExcitation(C, 4),
        SpatialGroupEnhance(4),
        ConvolutionalBlockAttention(C, 4, nn.BatchNorm2d),
        GlobalContext(C, 4),
        StyleRecalibration(C, nn.BatchNorm2d),
        EfficientChannelAttention(C),
    ],
    ids=lambda module: type(module).__name__,
)
@pytest.mark.parametrize("size", [(1, 1), (1, 6)])
def test_few_positions_give_finite_answers_and_gradients(module: nn.Module, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.zeros(2, C, *size, requires_grad=True)
    y = module(x)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
