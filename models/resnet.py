"""ResNets: one network, whose variants are rows of a table.

He et al., arXiv 1512.03385; pre-activation, arXiv 1603.05027; ResNeXt, arXiv 1611.05431; wide, arXiv 1605.07146;
relu-first is the PWSConv ancestor's. A bottleneck's stride sits on its 3x3 convolution. Parameters carry torchvision's
names whatever the norm; a norm before the head is `bn_last`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from models.layers import Layers
from models.layers.initialization import initialize
from models.residual import ORDERS, Block, Conv, Drops

EXPANSION = 4  # output channels of a bottleneck over its planes


@dataclass(frozen=True)
class ResNetShape:
    """A row of the table: stage i has `depths[i]` blocks of `channels` 2^i planes; `block` gives their convolutions."""

    settings: ClassVar[tuple[str, ...]] = ("block_order", "stem")  # the fields of ModelConfig that it reads

    block: Callable[["ResNetShape", int, int, int], list[Conv]]  # shape, input channels, planes, stride
    depths: tuple[int, ...]
    channels: int = 64
    groups: int = 1
    group_width: int = 64
    order: str = "post"
    stem: str = "imagenet"
    stem_channels: int | None = None  # where they are not those of the first stage
    stem_norm: bool = True  # a norm and an activation after the first convolution
    last_norm: bool = True  # after blocks that begin with their norm
    attention: str = "auto"  # the network's own
    avg_down: bool = False  # without being asked for
    start: str = "resnet"  # of its weights
    inner_dropout: bool = False  # published with dropout between convolutions

    @property
    def image_size(self) -> int:
        """Side of the images that it was published for, in pixels."""
        return 32 if self.stem == "small" else 224

    def drops(self, planes: int) -> Drops:
        """Drop-block is for the last stage, and a quarter of it for the one before (arXiv 1810.12890, section 4.1)."""
        last = self.channels * 2 ** (len(self.depths) - 1) if self.depths else None
        share = {last: 1.0, last // 2: 0.25}.get(planes, 0.0) if last else 0.0
        return Drops(share, self.inner_dropout)

    def build(self, layers: Layers, num_classes: int) -> nn.Module:
        width = layers.width()
        chosen = replace(
            self,
            order=layers.block_order(self.order),
            stem=layers.stem(self.stem, may_be_deep=True),
            channels=round(self.channels * width),
            stem_channels=self.stem_channels and round(self.stem_channels * width),
        )
        layers.take_own(self.attention, self.avg_down)
        model = ResNet(chosen, layers, num_classes)
        initialize(model, self.start)
        return model


def basic(shape: ResNetShape, c_in: int, planes: int, stride: int) -> list[Conv]:
    """Two 3x3 convolutions."""
    return [Conv(c_in, planes, 3, stride), Conv(planes, planes, 3)]


def bottleneck(shape: ResNetShape, c_in: int, planes: int, stride: int) -> list[Conv]:
    """1x1, a 3x3 that may be grouped, 1x1."""
    width = planes * shape.group_width // 64 * shape.groups
    inner = Conv(width, width, 3, stride, shape.groups, inner=True, deep=planes > shape.channels)
    return [Conv(c_in, width, 1), inner, Conv(width, planes * EXPANSION, 1)]


def stage(shape: ResNetShape, layers: Layers, c_in: int, planes: int, stride: int, depth: int) -> nn.Sequential:
    """`depth` blocks, the first with the stride."""
    blocks = []
    for i in range(depth):
        convs = shape.block(shape, c_in, planes, 1 if i else stride)
        if convs[0].stride == 1 < max(conv.stride for conv in convs) and layers.stride_first():
            convs = [replace(convs[0], stride=stride), *(replace(conv, stride=1) for conv in convs[1:])]
        blocks.append(Block(convs, ORDERS[shape.order], layers, shape.drops(planes)))
        c_in = convs[-1].c_out
    return nn.Sequential(*blocks)


class ResNet(nn.Module):
    """images: (n, 3, h, w) float, normalized -> logits (n, num_classes)."""

    def __init__(self, shape: ResNetShape, layers: Layers, num_classes: int) -> None:
        super().__init__()
        small, channels = shape.stem == "small", shape.stem_channels or shape.channels
        self.conv1 = STEMS[shape.stem](layers, channels)
        self.bn1, self.act1 = layers.end_norm_act(channels) or _after_stem(shape, layers, channels)
        self.maxpool = nn.Identity() if small else layers.max_pool(channels)
        self.stages = [f"layer{i + 1}" for i in range(len(shape.depths))]
        self.levels = {"act1": channels}  # for models.backbone
        for i, (name, depth) in enumerate(zip(self.stages, shape.depths, strict=True)):
            planes = shape.channels * 2**i
            blocks = stage(shape, layers, channels, planes, 2 if i else 1, depth)
            channels = shape.block(shape, channels, planes, 1)[-1].c_out
            attention = layers.stage_attention(channels) if name != self.stages[-1] else None
            if attention:
                blocks.add_module("attention", attention)
            self.add_module(name, blocks)
            self.levels[name] = channels
        self.bn_last, self.act_last = layers.end_norm_act(channels) or _before_head(shape, layers, channels)
        self.avgpool, self.dropout = nn.AdaptiveAvgPool2d(1), layers.dropout()
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.act1(self.bn1(self.conv1(images))))
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.classify(self.act_last(self.bn_last(x)))

    def classify(self, features: Tensor) -> Tensor:
        """features: (n, c, h, w), activated -> logits (n, num_classes)."""
        return self.fc(self.dropout(self.avgpool(features).flatten(1)))


def _deep_stem(layers: Layers, channels: int) -> nn.Sequential:
    """Three 3x3 convolutions for the 7x7, the last with neither norm nor activation (ResNet-C's, arXiv 1812.01187)."""
    first = layers.conv_norm_act(3, channels // 2, 3, stride=2, gain_from_data=True)
    second = layers.conv_norm_act(channels // 2, channels // 2, 3)
    return nn.Sequential(*first, *second, layers.conv(channels // 2, channels, 3))


# The first convolution, from images.
STEMS: dict[str, Callable[[Layers, int], nn.Module]] = {
    "imagenet": lambda layers, channels: layers.conv(3, channels, 7, stride=2, gain_from_data=True),
    "deep": _deep_stem,
    "small": lambda layers, channels: layers.conv(3, channels, 3, gain_from_data=True),
}


def _after_stem(shape: ResNetShape, layers: Layers, channels: int) -> tuple[nn.Module, nn.Module]:
    return layers.norm_act(channels) if shape.stem_norm else (nn.Identity(), nn.Identity())


def _before_head(shape: ResNetShape, layers: Layers, channels: int) -> tuple[nn.Module, nn.Module]:
    """The norm and activation that the last block leaves to be done."""
    order = ORDERS[shape.order]
    if order.act_last or (order.norm_first and not shape.last_norm):
        return nn.Identity(), nn.Identity()
    return layers.norm_act(channels) if order.norm_first else (nn.Identity(), layers.act())


Blocks = Callable[[ResNetShape, int, int, int], list[Conv]]


def cifar(block: Blocks, depth: int, **differences: object) -> ResNetShape:
    """The ResNet for 32 px images with `depth` weighted layers: 6n + 2 of basic blocks, 9n + 2 of bottlenecks.

    `differences`: fields of the row that are not those of the ResNets of arXiv 1512.03385.
    """
    convs_a_block = 2 if block is basic else 3
    blocks, rest = divmod(depth - 2, 3 * convs_a_block)
    if rest:
        raise ValueError(f"a CIFAR ResNet of this block has {3 * convs_a_block}n + 2 layers, not {depth}")
    return ResNetShape(**{"block": block, "depths": (blocks,) * 3, "channels": 16, "stem": "small", **differences})


def preresnet(block: Blocks, depth: int) -> ResNetShape:
    """The pre-activation ResNet of arXiv 1603.05027: no norm after the stem, projections of what nothing activated."""
    return cifar(block, depth, order="pre-raw", stem_norm=False)


def wide(depth: int, factor: int) -> ResNetShape:
    """The wide ResNet of arXiv 1605.07146, of 6n + 4 layers: it counts the projections of its three stages in."""
    widths = {"stem_channels": 16, "channels": 16 * factor, "inner_dropout": True}
    return cifar(basic, depth - 2, order="pre", stem_norm=False, start="wide", **widths)


def resnext29(groups: int) -> ResNetShape:
    """The ResNeXt for 32 px images of arXiv 1611.05431, of 64 channels a group."""
    return cifar(bottleneck, 29, channels=64, groups=groups, start="cardinal")


RESNETS = {
    "resnet18": ResNetShape(basic, (2, 2, 2, 2)),
    "resnet26": ResNetShape(bottleneck, (2, 2, 2, 2)),  # timm's; ModelZoo.pytorch's evo_resnet18
    "resnet34": ResNetShape(basic, (3, 4, 6, 3)),
    "resnet50": ResNetShape(bottleneck, (3, 4, 6, 3)),
    "resnet101": ResNetShape(bottleneck, (3, 4, 23, 3)),
    "resnet152": ResNetShape(bottleneck, (3, 8, 36, 3)),
    "resnext50_32x4d": ResNetShape(bottleneck, (3, 4, 6, 3), groups=32, group_width=4),
    "resnext101_32x4d": ResNetShape(bottleneck, (3, 4, 23, 3), groups=32, group_width=4),
    "resnext101_32x8d": ResNetShape(bottleneck, (3, 4, 23, 3), groups=32, group_width=8),
    "resnext101_64x4d": ResNetShape(bottleneck, (3, 4, 23, 3), groups=64, group_width=4),
    "resnext152_32x4d": ResNetShape(bottleneck, (3, 8, 36, 3), groups=32, group_width=4),
    "wide_resnet50_2": ResNetShape(bottleneck, (3, 4, 6, 3), group_width=128),
    "wide_resnet101_2": ResNetShape(bottleneck, (3, 4, 23, 3), group_width=128),
    "resnet18v2": ResNetShape(basic, (2, 2, 2, 2), order="pre"),
    "resnet34v2": ResNetShape(basic, (3, 4, 6, 3), order="pre"),
    "resnet50v2": ResNetShape(bottleneck, (3, 4, 6, 3), order="pre"),
    "resnet101v2": ResNetShape(bottleneck, (3, 4, 23, 3), order="pre"),
    "resnet152v2": ResNetShape(bottleneck, (3, 8, 36, 3), order="pre"),
    **{f"resnet{depth}": cifar(basic, depth) for depth in (20, 32, 44, 56, 110, 1202)},
    **{f"preresnet{depth}": preresnet(basic, depth) for depth in (20, 32, 44, 56, 110)},
    **{f"resnet{depth}_bottleneck": cifar(bottleneck, depth) for depth in (29, 164)},
    **{f"preresnet{depth}_bottleneck": preresnet(bottleneck, depth) for depth in (29, 164, 1001)},
    **{f"wrn{depth}_{factor}": wide(depth, factor) for depth, factor in ((16, 2), (16, 8), (22, 8), (28, 10), (40, 4))},
    "resnext29_8x64d": resnext29(8),
    "resnext29_16x64d": resnext29(16),
}
