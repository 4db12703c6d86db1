"""VGG: 3x3 convolutions in five stages, each ended by a pooling; torchvision's parameter names.

Simonyan and Zisserman, arXiv 1409.1556, configurations A, B, D, E. Only the `_bn` networks have a place for a norm. The
CIFAR forms end with one linear layer (Weight Standardization ancestor, seeds.md 3.3).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from models.alexnet import DROPOUT, HIDDEN, PlainNetwork
from models.layers import Layers
from models.layers.initialization import initialize

CHANNELS = (64, 128, 256, 512, 512)  # of the stages
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


@dataclass(frozen=True)
class VGGShape:
    """A row of the table: stage i has `depths[i]` convolutions. `small`: for images of 32 px."""

    settings: ClassVar[tuple[str, ...]] = ()
    paper: ClassVar[str] = "arXiv 1409.1556"

    depths: tuple[int, ...]
    normed: bool
    small: bool

    @property
    def image_size(self) -> int:
        return 32 if self.small else 224

    def build(self, layers: Layers, num_classes: int) -> nn.Module:
        size, channels = (1, CHANNELS[-1]) if self.small else (7, CHANNELS[-1] * 7 * 7)
        features = nn.Sequential(*_features(self, layers))
        if self.small:
            model = PlainNetwork(features, size, nn.Linear(channels, num_classes), layers.dropout())
        else:
            model = PlainNetwork(features, size, _classifier(layers, channels, num_classes))
        initialize(model, "small-head")
        return model


def _features(shape: VGGShape, layers: Layers) -> Iterator[nn.Module]:
    c_in = 3
    for i, (channels, depth) in enumerate(zip(CHANNELS, shape.depths, strict=True)):
        for j in range(depth):
            last = i + 1 == len(shape.depths) and j + 1 == depth
            if shape.normed:
                yield layers.conv(c_in, channels, 3, gain_from_data=True, bias=True)
                yield from _norm_act(layers, channels, end=c_in == 3 or last)
            else:
                yield nn.Conv2d(c_in, channels, 3, padding=1)
                yield layers.act(in_place=True)
            c_in = channels
        yield nn.MaxPool2d(2)


def _norm_act(layers: Layers, channels: int, end: bool) -> tuple[nn.Module, nn.Module]:
    """The norm and activation after a convolution; `end`: after the first, which is the stem, or before the head."""
    return (layers.end_norm_act(channels) if end else None) or layers.norm_act(channels)


def _classifier(layers: Layers, channels: int, num_classes: int) -> nn.Sequential:
    hidden = [nn.Linear(channels, HIDDEN), layers.act(), layers.dropout(DROPOUT)]
    hidden += [nn.Linear(HIDDEN, HIDDEN), layers.act(), layers.dropout(DROPOUT)]
    return nn.Sequential(*hidden, nn.Linear(HIDDEN, num_classes))


VGGS = {
    f"{prefix}vgg{depth}{'_bn' * normed}": VGGShape(depths, normed, small=bool(prefix))
    for prefix in ("", "cifar_")
    for depth, depths in DEPTHS.items()
    for normed in (False, True)
}
