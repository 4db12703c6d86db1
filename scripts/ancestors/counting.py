"""How each ancestor counts the size of a network: rules of its own code or library, over modules of ours.

A rule has a cost for each class of module. A module of ours that stands for modules which the ancestor has in another
form (a linear layer for our 1x1 convolution) has a cost too: the difference, added to that of the modules inside it.
Sources: seeds.md 2.2 (PWSConv), 4.8 (PytorchInsight), 5.1 (ModelZoo), 6 (WN, which used thop).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from models.layers.attention import (
    BottleneckAttention,
    ChannelGate,
    PooledLinear,
    SpatialGroupEnhance,
    SqueezeExcitation,
)
from models.layers.selective import SelectiveKernel
from models.shufflenet import ShuffleNet

Cost = Callable[[nn.Module, Tensor, Tensor], float]  # module, input, output


def trained(model: nn.Module) -> int:
    """All parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def trained_and_tracked(model: nn.Module) -> int:
    """ModelZoo's: with the running statistics, without the counters of batches."""
    return trained(model) + sum(buffer.numel() for buffer in model.buffers() if buffer.is_floating_point())


def backbone(model: nn.Module) -> int:
    """PWSConv's: without the classifier and the norm before it."""
    return trained(model) - trained(model.fc) - trained(model.bn_last)


@dataclass(frozen=True)
class Rule:
    """What one ancestor calls the parameters and the FLOPs of a network."""

    costs: Mapping[type[nn.Module], Cost] = field(default_factory=dict)
    parameters: Callable[[nn.Module], int] = trained


def count(model: nn.Module, size: int, rule: Rule) -> tuple[int, int]:
    """Parameters and FLOPs of `model`, on the meta device, for one image of `size` x `size` pixels."""
    flops: list[float] = []

    def record(cost: Cost) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        return lambda module, inputs, output: flops.append(cost(module, inputs[0], output))

    found = [(module, _cost(module, rule)) for module in model.modules()]
    hooks = [module.register_forward_hook(record(cost)) for module, cost in found if cost]
    with torch.device("meta"), torch.no_grad():
        model.eval()(torch.empty(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return rule.parameters(model), round(sum(flops))


def _cost(module: nn.Module, rule: Rule) -> Cost | None:
    return next((rule.costs[kind] for kind in type(module).__mro__ if kind in rule.costs), None)


def _positions(x: Tensor) -> int:
    return math.prod(x.shape[2:])


def _weights(layer: nn.Module, x: Tensor, y: Tensor) -> int:
    return layer.weight.numel()


def _elements_in(module: nn.Module, x: Tensor, y: Tensor) -> int:
    return x.numel()


def _elements_out(module: nn.Module, x: Tensor, y: Tensor) -> int:
    return y.numel()


# PytorchInsight: a multiply-add is one; biases of convolutions, activations, poolings and batch norm count.


def _insight_conv(conv: nn.Conv2d, x: Tensor, y: Tensor) -> int:
    return (conv.weight.numel() + (0 if conv.bias is None else conv.out_channels)) * _positions(y)


def _insight_bam(attention: BottleneckAttention, x: Tensor, y: Tensor) -> int:
    """In the branch of channels, the one-dimensional batch norm does not count."""
    return -2 * attention.channel[1].num_features


def _insight_sk(pooled: int) -> Cost:
    """The poolings of branches."""
    return lambda attention, x, y: pooled * y.numel()


def _insight_shufflenet(network: ShuffleNet, x: Tensor, y: Tensor) -> int:
    """The pooling before the classifier, which is a function in ours; the image is 32 times smaller by then."""
    return network.fc.in_features * _positions(x) // 32**2


INSIGHT: dict[type[nn.Module], Cost] = {
    nn.Conv2d: _insight_conv,
    nn.Linear: _weights,
    nn.ReLU: _elements_out,
    nn.MaxPool2d: _elements_in,
    nn.AvgPool2d: _elements_in,
    nn.AdaptiveAvgPool2d: _elements_in,
    nn.BatchNorm2d: lambda norm, x, y: 2 * x.numel(),
    PooledLinear: _weights,
    SqueezeExcitation: _elements_in,  # its pooling
    ChannelGate: lambda gate, x, y: len(gate.pools) * x.numel(),
    SpatialGroupEnhance: _elements_in,  # its pooling
    BottleneckAttention: _insight_bam,
    SelectiveKernel: _insight_sk(2),
    ShuffleNet: _insight_shufflenet,
}

# ModelZoo: half of the multiplications and additions.


def _zoo_conv(conv: nn.Conv2d, x: Tensor, y: Tensor) -> float:
    """Cin is all of the input's channels, grouped or not, for c_out / groups outputs."""
    area = math.prod(conv.kernel_size)
    each = 2 * conv.in_channels * area - 1 + (conv.bias is not None)
    return each * conv.out_channels // conv.groups * _positions(y) / 2


def _twice_in_out(layer: nn.Linear, x: Tensor, y: Tensor) -> int:
    return (2 * layer.in_features - 1) * layer.out_features


ZOO: dict[type[nn.Module], Cost] = {
    nn.Conv2d: _zoo_conv,
    nn.Linear: lambda layer, x, y: (_twice_in_out(layer, x, y) + layer.out_features) / 2,
    nn.BatchNorm2d: _elements_out,
    nn.GroupNorm: _elements_out,
}

# WN, by thop: multiply-adds of convolutions, and twice what other layers have.


def _thop_pool(pool: nn.AdaptiveAvgPool2d, x: Tensor, y: Tensor) -> int:
    """Additions of a window and one division, for each output."""
    return (_positions(x) // _positions(y) + 1) * y.numel()


THOP: dict[type[nn.Module], Cost] = {
    nn.Conv2d: lambda conv, x, y: conv.weight.numel() * _positions(y),
    nn.Linear: _twice_in_out,
    nn.BatchNorm2d: lambda norm, x, y: 2 * x.numel(),
    nn.AdaptiveAvgPool2d: _thop_pool,
}

PWSCONV_RULE = Rule(parameters=backbone)
TRAINED_RULE = Rule()  # Weight Standardization's: parameters alone
INSIGHT_RULE = Rule(INSIGHT)
INSIGHT_ONE_POOLING = Rule({**INSIGHT, SelectiveKernel: _insight_sk(1)})
ZOO_RULE = Rule(ZOO, trained_and_tracked)
THOP_RULE = Rule(THOP)
