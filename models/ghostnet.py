"""GhostNets (Han et al., arXiv 1911.11907): half of the channels are cheap depthwise convolutions of the other half.

The paper's widths are --width 0.5, 1.0 and 1.3. GhostNet600 and GhostNetA are the ModelZoo ancestor's (seeds.md 5.5).
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.inverted_residual import (
    Classifier,
    Features,
    InvertedResidual,
    MBConv,
    MobileNetwork,
    Squeeze,
    make_divisible,
)
from models.layers import Layers
from models.layers.initialization import initialize


class GhostModule(nn.Module):
    """A 1x1 convolution to `c_out` channels (an even number): half by itself, half by depthwise 3x3 on those."""

    def __init__(self, c_in: int, c_out: int, layers: Layers, act: str | None, *, last: bool = False) -> None:
        super().__init__()
        half = c_out // 2
        self.primary = layers.conv_norm_act(c_in, half, 1, act, last=last, gain_from_data=not last)
        self.cheap = layers.conv_norm_act(half, half, 3, act, last=last, groups=half)

    def forward(self, x: Tensor) -> Tensor:
        primary = self.primary(x)
        return torch.cat([primary, self.cheap(primary)], 1)


def ghost_bottleneck(shape: MBConv, layers: Layers) -> InvertedResidual:
    """An inverted residual with ghost modules for its 1x1 convolutions, and a depthwise one only where it strides."""
    c_in, c_mid, c_out = shape.c_in, shape.c_mid, shape.c_out
    window = {"stride": shape.stride, "gain_from_data": True}
    steps = OrderedDict(ghost1=GhostModule(c_in, c_mid, layers, shape.act))
    if shape.stride > 1:
        steps["depthwise"] = layers.conv_norm_act(c_mid, c_mid, shape.kernel_size, None, groups=c_mid, **window)
    if attention := shape.attention(layers):
        steps["se"] = attention
    steps["ghost2"] = GhostModule(c_mid, c_out, layers, None, last=True)
    shortcut = nn.Identity()
    if not shape.keeps_shape:
        depthwise = layers.conv_norm_act(c_in, c_in, shape.kernel_size, None, groups=c_in, **window)
        shortcut = nn.Sequential(depthwise, layers.conv_norm_act(c_in, c_out, 1, None))
    return InvertedResidual(nn.Sequential(steps), shortcut, layers.drop_path())


@dataclass(frozen=True)
class GhostNetShape:
    """A row: blocks as (c_mid, c_out, kernel size, stride, squeeze-and-excitation), then a 1x1 to `last` channels.

    Channels are `width` times those, rounded to multiples of `divisor`; `se` is the share of hidden channels.
    """

    settings: ClassVar[tuple[str, ...]] = ("stem",)
    paper: ClassVar[str] = "arXiv 1911.11907"

    blocks: tuple[tuple[int, int, int, int, bool], ...]
    classifier: Classifier
    stem: int = 16
    last: int = 960
    width: float = 1.0
    divisor: int = 4
    se: float = 0.25
    act: str = "relu"

    def build(self, layers: Layers, num_classes: int) -> nn.Module:
        width = self.width * layers.width()
        features = Features(layers, make_divisible(self.stem * width, self.divisor), self.act)
        for c_mid, c_out, kernel_size, stride, squeezed in self.blocks:
            c_mid, c_out = (make_divisible(channels * width, self.divisor) for channels in (c_mid, c_out))
            squeeze = Squeeze(make_divisible(self.se * c_mid, 4), gate="hard-sigmoid") if squeezed else None
            shape = MBConv(features.channels, c_mid, c_out, kernel_size, stride, self.act, squeeze)
            features.add(ghost_bottleneck(shape, layers), c_out, stride)
        features.finish(make_divisible(self.last * width, self.divisor), self.act)
        model = MobileNetwork(features, self.classifier, num_classes)
        initialize(model, "ghostnet")
        return model


GHOSTNET = GhostNetShape(
    blocks=(
        (16, 16, 3, 1, False),
        *((48, 24, 3, 2, False), (72, 24, 3, 1, False)),
        *((72, 40, 5, 2, True), (120, 40, 5, 1, True)),
        *((240, 80, 3, 2, False), (200, 80, 3, 1, False), (184, 80, 3, 1, False), (184, 80, 3, 1, False)),
        *((480, 112, 3, 1, True), (672, 112, 3, 1, True)),
        *((672, 160, 5, 2, True), *[(960, 160, 5, 1, False), (960, 160, 5, 1, True)] * 2),
    ),
    classifier=Classifier(0.2, hidden=1280, act="relu"),
)
GHOSTNET600 = GhostNetShape(
    blocks=(
        (16, 16, 3, 1, True),
        *((48, 24, 3, 2, True), (72, 24, 3, 1, True)),
        *((72, 40, 5, 2, True), *[(120, 40, 5, 1, True)] * 2),
        *((240, 80, 3, 2, True), *[(200, 80, 3, 1, True)] * 3),
        *((480, 112, 3, 1, True), *[(672, 112, 3, 1, True)] * 2),
        *((672, 160, 5, 2, True), *[(960, 160, 5, 1, True)] * 5),
    ),
    classifier=Classifier(0.8, hidden=1400, act="hard-swish"),
    width=1.75,
    se=0.1,
    act="hard-swish",
)
GHOSTNET_A = GhostNetShape(
    blocks=(
        (28, 28, 3, 1, True),
        *((84, 44, 3, 2, True), (132, 44, 3, 1, True)),
        *((132, 72, 3, 2, True), *[(216, 72, 3, 1, True)] * 2),
        *((432, 140, 3, 2, True), *[(350, 140, 3, 1, True)] * 3),
        *((840, 196, 3, 1, True), *[(1176, 196, 3, 1, True)] * 2),
        *((1176, 280, 3, 2, True), *[(1680, 280, 3, 1, True)] * 5),
    ),
    classifier=Classifier(hidden=1400, act="relu"),
    stem=28,
    last=1680,
    divisor=2,
    se=0.1,
)

GHOSTNETS = {"ghostnet": GHOSTNET, "ghostnet600": GHOSTNET600, "ghostnet_a": GHOSTNET_A}
