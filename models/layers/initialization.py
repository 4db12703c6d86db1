"""How weights start: a row for each way that a paper or an ancestor has, and what weight norms change in it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from models.layers.attention import ContextMask, PooledLinear
from models.layers.convolution import PWSConv2d, WNConv2d, ZeroConv2d

PWS_HEAD_DEVIATION = 0.01  # of the classifier after PWS, seeds.md 2.2


@dataclass(frozen=True)
class Start:
    """How the weights of a family start.

    `fan` of Kaiming-normal filters (He et al., arXiv 1502.01852), with zero biases; `linear` is the standard deviation
    of linear weights or a name in `LINEAR`, with zero biases. None leaves torch's own start, uniform in
    +-1 / sqrt(fan in), biases too. `pooled`: the layers of pooled channels inside attentions start as filters do; else
    as torch's linear layers, which they are in PytorchInsight's ResNets.
    """

    fan: Literal["fan_in", "fan_out"] | None = "fan_out"
    pooled: bool = True
    linear: float | Literal["torch", "fan_in", "fan_out"] | None = None


LINEAR: dict[str, Callable[[Tensor], object]] = {
    "torch": lambda weight: None,
    "fan_in": partial(nn.init.kaiming_normal_, mode="fan_in", nonlinearity="relu"),
    "fan_out": lambda weight: nn.init.uniform_(weight, -(len(weight) ** -0.5), len(weight) ** -0.5),
}


STARTS = {
    # torchvision's; the WS and PytorchInsight ancestors' too, but for the classifier of PytorchInsight's BAM and CBAM
    # networks, which starts by its fan in, and ModelZoo.pytorch's, whose logits start large (seeds.md 4.4, 5.1)
    "resnet": Start(pooled=False),
    "wide": Start(pooled=False, linear="torch"),  # the WS ancestor's WRN
    "cardinal": Start(pooled=False, linear="fan_in"),  # its ResNeXt-29
    "ghostnet": Start(),  # its authors' and ModelZoo.pytorch's
    "torch": Start(fan=None),  # ShuffleNet V1 and V2, in torchvision and PytorchInsight; AlexNet
    "densenet": Start(fan="fan_in"),  # torchvision's; the WS ancestor's CIFAR DenseNets start as ResNets
    # RegNet (pycls and torchvision), VGG (torchvision and the WS ancestor), MobileNet (torchvision)
    "small-head": Start(linear=0.01),
    "efficientnet": Start(linear="fan_out"),  # the authors' and torchvision's
}

OWN = (ZeroConv2d, ContextMask)  # convolutions that start alike in every network


def initialize(model: nn.Module, start: str = "resnet") -> None:
    """Give the weights of `model` the start of that name in `STARTS`.

    Norms keep the ones and zeros (and zero gammas) they were made with. PWS filters are Kaiming-normal by the fan of
    their rule whatever the start, since the rule takes that variance for granted, with gains of one and a head of
    N(0, 0.01); WN gains are the norms of their filters. What is in `OWN` keeps its own start.
    """
    chosen = STARTS[start]
    linear, kept = chosen.linear, OWN if chosen.pooled else (*OWN, PooledLinear)
    for module in model.modules():
        if isinstance(module, PWSConv2d):
            _fill(module, f"fan_{module.rule.fan}")
            linear = linear or PWS_HEAD_DEVIATION
        elif isinstance(module, nn.Conv2d) and not isinstance(module, kept) and chosen.fan:
            _fill(module, chosen.fan)
    if linear:
        for module in (module for module in model.modules() if isinstance(module, nn.Linear)):
            _fill_linear(module, linear)


def _fill_linear(layer: nn.Linear, start: float | str) -> None:
    if isinstance(start, str):
        LINEAR[start](layer.weight)
    else:
        nn.init.normal_(layer.weight, std=start)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


@torch.no_grad()
def _fill(conv: nn.Conv2d, fan: str) -> None:
    nn.init.kaiming_normal_(conv.weight, mode=fan, nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    if isinstance(conv, WNConv2d):
        conv.g.copy_(conv.filter_norms())
