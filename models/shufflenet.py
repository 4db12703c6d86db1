"""ShuffleNets: cheap pointwise convolutions, and a shuffle that lets their channels meet.

V1: Zhang et al., arXiv 1707.01083. V2: Ma et al., arXiv 1807.11164, with torchvision's names. The PytorchInsight
ancestor's other forms (seeds.md 4.3) are choices: --attention se and gl, --norm bng2, ws and ws_bn. Weight
standardization takes depthwise filters too, each over its own 9 weights: the ancestor does not tell, and the paper
(arXiv 1903.10520) standardizes whatever a norm follows, which is every convolution here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.layers import Layers
from models.layers.initialization import initialize

STEM = 24  # channels of the stem, which V1's width multiplies
DEPTHS = (4, 8, 4)  # units of stages 2, 3 and 4
BOTTLENECK = 4  # V1: output channels over those of the 3x3

Unit = Callable[[int, int, int], nn.Module]  # of channels in, channels out, stride


def shuffle(x: Tensor, groups: int) -> Tensor:
    """x: (n, c, h, w) with its channels dealt out, so that the first of each group come first."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class ResidualUnit(nn.Module):
    """V1's: grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; added to its input, or if strided set beside it.

    `split`: whether the first 1x1 is grouped; after the stem, whose channels are few, it is not (section 3.3).
    """

    def __init__(self, c_in: int, c_out: int, groups: int, layers: Layers, *, stride: int, split: bool) -> None:
        super().__init__()
        self.groups = groups
        c_mid, c_branch = c_out // BOTTLENECK, c_out - c_in if stride > 1 else c_out
        self.conv1 = layers.conv_norm_act(c_in, c_mid, 1, groups=groups if split else 1, gain_from_data=True)
        self.conv2 = layers.conv_norm_act(c_mid, c_mid, 3, None, stride=stride, groups=c_mid)
        self.conv3 = layers.conv_norm_act(c_mid, c_branch, 1, None, groups=groups, last=stride == 1)
        self.attention = layers.attention(c_branch)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stride > 1 else None
        self.drop_path = layers.drop_path(has_place=stride == 1) or nn.Identity()
        self.act = layers.act(in_place=True)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.attention(self.conv3(self.conv2(shuffle(self.conv1(x), self.groups))))
        if self.pool is None:
            return self.act(x + self.drop_path(branch))
        return self.act(torch.cat([self.pool(x), branch], dim=1))


class SplitUnit(nn.Module):
    """V2's: half of the channels pass 1x1, depthwise 3x3, 1x1; if strided, both halves are made from all channels."""

    def __init__(self, c_in: int, c_out: int, stride: int, layers: Layers) -> None:
        super().__init__()
        self.is_strided, half = stride > 1, c_out // 2
        self.branch1 = nn.Sequential()
        if self.is_strided:
            depthwise = layers.conv_norm_act(c_in, c_in, 3, None, stride=stride, groups=c_in, gain_from_data=True)
            self.branch1 = nn.Sequential(*depthwise, *layers.conv_norm_act(c_in, half, 1))
        self.branch2 = nn.Sequential(
            *layers.conv_norm_act(c_in if self.is_strided else half, half, 1, gain_from_data=True),
            *layers.conv_norm_act(half, half, 3, None, stride=stride, groups=half),
            *layers.conv_norm_act(half, half, 1),
        )
        self.attention = layers.attention(c_out)

    def forward(self, x: Tensor) -> Tensor:
        left, right = (x, x) if self.is_strided else x.chunk(2, dim=1)
        joined = torch.cat([self.branch1(left), self.branch2(right)], dim=1)
        return shuffle(self.attention(joined), 2)


@dataclass(frozen=True)
class ShuffleNetV1Shape:
    """A row of the table: groups of the 1x1 convolutions, and channels of stage 2, which double in each after it.

    --width multiplies them, and the stem's: the paper's ShuffleNet 0.25x to 2x.
    """

    settings: ClassVar[tuple[str, ...]] = ()
    paper: ClassVar[str] = "arXiv 1707.01083"

    groups: int
    channels: int

    def build(self, layers: Layers, num_classes: int) -> nn.Module:
        width = layers.width()
        stem = _multiple(STEM * width, self.groups)
        first = _multiple(self.channels * width, BOTTLENECK * self.groups)

        def unit(c_in: int, c_out: int, stride: int) -> nn.Module:
            return ResidualUnit(c_in, c_out, self.groups, layers, stride=stride, split=c_in != stem)

        model = ShuffleNet([stem, first, 2 * first, 4 * first], None, unit, layers, num_classes)
        initialize(model, "torch")
        return model


def _multiple(channels: float, divisor: int) -> int:
    """The multiple of `divisor` nearest to `channels`, and at least one of it, so that groups are equal."""
    return max(round(channels / divisor), 1) * divisor


@dataclass(frozen=True)
class ShuffleNetV2Shape:
    """A row of the table: channels of stages 2, 3 and 4, and of the 1x1 convolution before the head."""

    settings: ClassVar[tuple[str, ...]] = ()
    paper: ClassVar[str] = "arXiv 1807.11164"

    channels: tuple[int, int, int]
    last: int = 1024

    def build(self, layers: Layers, num_classes: int) -> nn.Module:
        def unit(c_in: int, c_out: int, stride: int) -> nn.Module:
            return SplitUnit(c_in, c_out, stride, layers)

        model = ShuffleNet([STEM, *self.channels], self.last, unit, layers, num_classes)
        initialize(model, "torch")
        return model


class ShuffleNet(nn.Module):
    """images: (n, 3, h, w) float, normalized -> logits (n, num_classes).

    `channels`: of the stem and the three stages; `last`: of V2's last 1x1.
    """

    def __init__(self, channels: list[int], last: int | None, unit: Unit, layers: Layers, num_classes: int) -> None:
        super().__init__()
        c_in, *stages = channels
        norm_act = layers.end_norm_act(c_in) or layers.norm_act(c_in)
        self.conv1 = nn.Sequential(layers.conv(3, c_in, 3, stride=2, gain_from_data=True), *norm_act)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.levels = {"conv1": c_in, **{f"stage{i}": c_out for i, c_out in enumerate(stages, start=2)}}
        for i, (c_out, depth) in enumerate(zip(stages, DEPTHS, strict=True), start=2):
            units = [unit(c_in, c_out, 2), *(unit(c_out, c_out, 1) for _ in range(depth - 1))]
            self.add_module(f"stage{i}", nn.Sequential(*units))
            c_in = c_out
        self.conv5 = nn.Sequential(*_last_layers(c_in, last, layers))
        self.dropout = layers.dropout()
        self.fc = nn.Linear(last or c_in, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stage4(self.stage3(self.stage2(self.maxpool(self.conv1(images)))))
        return self.fc(self.dropout(self.conv5(x).mean((2, 3))))


def _last_layers(c_in: int, last: int | None, layers: Layers) -> list[nn.Module]:
    """What stands between the last unit and the pooling."""
    if last is None:
        return list(layers.end_norm_act(c_in) or ())
    norm_act = layers.end_norm_act(last) or layers.norm_act(last)
    return [layers.conv(c_in, last, 1, gain_from_data=True), *norm_act]


SHUFFLENETS = {
    "shufflenet_v1_g1": ShuffleNetV1Shape(1, 144),
    "shufflenet_v1_g2": ShuffleNetV1Shape(2, 200),
    "shufflenet_v1_g3": ShuffleNetV1Shape(3, 240),
    "shufflenet_v1_g4": ShuffleNetV1Shape(4, 272),
    "shufflenet_v1_g8": ShuffleNetV1Shape(8, 384),
    "shufflenet_v2_x0_5": ShuffleNetV2Shape((48, 96, 192)),
    "shufflenet_v2_x1_0": ShuffleNetV2Shape((116, 232, 464)),
    "shufflenet_v2_x1_5": ShuffleNetV2Shape((176, 352, 704)),
    "shufflenet_v2_x2_0": ShuffleNetV2Shape((244, 488, 976), 2048),
    # The PytorchInsight ancestor's (seeds.md 4.3): the paper has 244 channels in stage 2.
    "shufflenet_v2_x2_0_pytorchinsight": ShuffleNetV2Shape((224, 488, 976), 2048),
}
