"""DenseNets: each layer sees what all layers before it in its block made; torchvision's parameter names.

Huang et al., arXiv 1608.06993, with bottlenecks and compression (DenseNet-BC). The CIFAR forms have three blocks of
equal depth behind one 3x3 convolution; theirs are the Weight Standardization ancestor's sizes (seeds.md 3.3).
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.layers import Layers
from models.layers.initialization import initialize

BOTTLENECK = 4  # channels between the two convolutions of a layer, over the growth
COMPRESSION = 2  # of a transition


class DenseLayer(nn.Module):
    """norm-act-1x1-norm-act-3x3, whose `growth` channels are put behind the input's."""

    def __init__(self, c_in: int, growth: int, layers: Layers) -> None:
        super().__init__()
        c_mid = BOTTLENECK * growth
        self.norm1, self.relu1 = layers.norm_act(c_in)
        self.conv1 = layers.conv(c_in, c_mid, 1, gain_from_data=True)
        self.norm2, self.relu2 = layers.norm_act(c_mid)
        self.conv2 = layers.conv(c_mid, growth, 3)
        self.dropout = layers.conv_dropout() or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv1(self.relu1(self.norm1(x)))
        return torch.cat([x, self.dropout(self.conv2(self.relu2(self.norm2(branch))))], dim=1)


def _dense_block(c_in: int, depth: int, growth: int, layers: Layers) -> nn.Sequential:
    steps = {f"denselayer{i + 1}": DenseLayer(c_in + i * growth, growth, layers) for i in range(depth)}
    return nn.Sequential(OrderedDict(steps))


def _transition(c_in: int, layers: Layers) -> nn.Sequential:
    """norm-act-1x1, which leaves half of the channels, and a pooling, which leaves half of the size."""
    norm, act = layers.norm_act(c_in)
    conv, pool = layers.conv(c_in, c_in // COMPRESSION, 1, gain_from_data=True), nn.AvgPool2d(2)
    return nn.Sequential(OrderedDict(norm=norm, relu=act, conv=conv, pool=pool))


@dataclass(frozen=True)
class DenseNetShape:
    """A row of the table: block i has `depths[i]` layers, which add `growth` channels each; `channels` of the stem."""

    settings: ClassVar[tuple[str, ...]] = ("stem",)
    paper: ClassVar[str] = "arXiv 1608.06993"

    depths: tuple[int, ...]
    growth: int
    channels: int
    stem: str = "imagenet"

    @property
    def image_size(self) -> int:
        return 224 if self.stem == "imagenet" else 32

    def build(self, layers: Layers, num_classes: int) -> nn.Module:
        model = DenseNet(self, layers, num_classes)
        initialize(model, "densenet" if self.stem == "imagenet" else "resnet")
        return model


class DenseNet(nn.Module):
    """images: (n, 3, h, w) float, normalized -> logits (n, num_classes)."""

    def __init__(self, shape: DenseNetShape, layers: Layers, num_classes: int) -> None:
        super().__init__()
        steps, channels = _stem(layers.stem(shape.stem), shape.channels, layers), shape.channels
        self.levels = {f"features.{[name for name in steps if name != 'pool0'][-1]}": channels}  # for models.backbone
        for i, depth in enumerate(shape.depths, start=1):
            steps[f"denseblock{i}"] = _dense_block(channels, depth, shape.growth, layers)
            channels += depth * shape.growth
            self.levels[f"features.denseblock{i}"] = channels
            if i < len(shape.depths):
                steps[f"transition{i}"] = _transition(channels, layers)
                channels //= COMPRESSION
        steps["norm5"], steps["relu5"] = layers.end_norm_act(channels) or layers.norm_act(channels)
        self.features = nn.Sequential(OrderedDict(steps))
        self.avgpool, self.dropout = nn.AdaptiveAvgPool2d(1), layers.dropout()
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.avgpool(self.features(images)).flatten(1)))


def _stem(kind: str, channels: int, layers: Layers) -> dict[str, nn.Module]:
    """The first layers. The small stem has no norm of its own, since the first dense layer begins with one."""
    small = kind == "small"
    steps = {"conv0": layers.conv(3, channels, 3 if small else 7, stride=1 if small else 2, gain_from_data=True)}
    norm_act = layers.end_norm_act(channels) or (None if small else layers.norm_act(channels))
    if norm_act:
        steps["norm0"], steps["relu0"] = norm_act
    if not small:
        steps["pool0"] = nn.MaxPool2d(3, stride=2, padding=1)
    return steps


def cifar(depth: int, growth: int) -> DenseNetShape:
    """The DenseNet-BC for 32 px images with `depth` = 6n + 4 weighted layers."""
    layers, rest = divmod(depth - 4, 6)
    if rest:
        raise ValueError(f"a CIFAR DenseNet-BC has 6n + 4 layers, not {depth}")
    return DenseNetShape((layers,) * 3, growth, channels=2 * growth, stem="small")


DENSENETS = {
    "densenet121": DenseNetShape((6, 12, 24, 16), growth=32, channels=64),
    "densenet161": DenseNetShape((6, 12, 36, 24), growth=48, channels=96),
    "densenet169": DenseNetShape((6, 12, 32, 32), growth=32, channels=64),
    "densenet201": DenseNetShape((6, 12, 48, 32), growth=32, channels=64),
    "cifar_densenet100_12": cifar(100, growth=12),
    "cifar_densenet190_40": cifar(190, growth=40),
}
