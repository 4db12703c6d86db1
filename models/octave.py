"""Octave ResNets: ResNets with a share of their channels at half the resolution. Chen et al., arXiv 1904.05049.

All blocks but those of the last stage give maps of both frequencies; --octave-alpha is the share of the low one. Every
stride is an average over 2x2. ModelZoo.pytorch's, with as many blocks in a stage as the ResNet has (seeds.md 5.4); its
second form, `re`, has plain convolutions, strided too, where neither side has low channels.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from models.layers import Layers
from models.layers.octave import Channels, OctaveConv, OctaveLayers, divided
from models.residual import Conv
from models.resnet import ResNetShape, bottleneck


@dataclass(frozen=True)
class OctaveStep(Conv):
    """One octave convolution of a residual branch."""

    def layer(self, layers: Layers, *, gain_from_data: bool) -> OctaveConv:
        options = {"stride": self.stride, "groups": self.groups, "gain_from_data": gain_from_data}
        return OctaveConv(self.c_in, self.c_out, self.kernel_size, layers, **options)


@dataclass(frozen=True)
class OctaveShape(ResNetShape):
    """A row of the table; `alpha` is the share of low channels unless the user has another."""

    settings: ClassVar[tuple[str, ...]] = (*ResNetShape.settings, "octave_alpha")

    alpha: float = 0.125
    re: bool = False

    def build(self, layers: Layers, num_classes: int) -> nn.Module:
        wanted = layers.config.octave_alpha
        shape = self if wanted is None else replace(self, alpha=wanted)
        return super(OctaveShape, shape).build(OctaveLayers(layers), num_classes)


def octave_bottleneck(shape: OctaveShape, c_in: Channels, planes: int, stride: int) -> list[Conv]:
    """The bottleneck, whose channels are divided but in the last stage, which begins by joining them."""
    last = planes == shape.channels * 2 ** (len(shape.depths) - 1)
    steps = []
    for conv in bottleneck(shape, c_in, planes, stride):
        c_out = conv.c_out if last else divided(conv.c_out, shape.alpha)
        plain = shape.re and isinstance(c_in, int) and isinstance(c_out, int)
        conv = replace(conv, inner=False, deep=False)
        steps.append(conv if plain else OctaveStep(c_in, c_out, conv.kernel_size, conv.stride, conv.groups))
        c_in = c_out
    return steps


OCTAVES = {
    "oct_resnet26": OctaveShape(octave_bottleneck, (2, 2, 2, 2)),
    "oct_resnet50": OctaveShape(octave_bottleneck, (3, 4, 6, 3)),
    "oct_resnet101": OctaveShape(octave_bottleneck, (3, 4, 23, 3)),
    "oct_resnet152": OctaveShape(octave_bottleneck, (3, 8, 36, 3)),
    "oct_resnet50v2": OctaveShape(octave_bottleneck, (3, 4, 6, 3), order="pre", last_norm=False),
    "oct_resnet50_re": OctaveShape(octave_bottleneck, (3, 4, 6, 3), re=True),
    "oct_resnet101_re": OctaveShape(octave_bottleneck, (3, 4, 23, 3), re=True),
    "oct_resnet152_re": OctaveShape(octave_bottleneck, (3, 8, 36, 3), re=True),
    "oct_resnext50_32x4d_re": OctaveShape(
        octave_bottleneck, (3, 4, 6, 3), groups=32, group_width=4, alpha=0.25, re=True
    ),
    "oct_resnext101_32x8d_re": OctaveShape(
        octave_bottleneck, (3, 4, 23, 3), groups=32, group_width=8, alpha=0.25, re=True
    ),
}
