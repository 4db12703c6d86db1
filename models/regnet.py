"""RegNets: widths and depths that follow from five numbers (Radosavovic et al., arXiv 2003.13678).

The width of block j is w_0 + w_a j, rounded to the nearest w_0 w_m^s, s an integer, and that to a multiple of 8;
blocks of equal width are a stage. X has no squeeze-and-excitation, Y has. Parameters carry torchvision's names.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace
from itertools import groupby
from typing import ClassVar

import numpy as np
from torch import Tensor, nn

from models.layers import Layers
from models.layers.attention import SqueezeExcitation
from models.layers.initialization import initialize

STEM, QUANTUM = 32, 8  # channels of the stem; widths are multiples of this
SE_SHARE = 0.25  # hidden channels of Y's squeeze-and-excitation, as a share


@dataclass(frozen=True)
class RegNetShape:
    """A row of the table: the five numbers of the paper (appendix D), and `se`, whose width is a quarter of ...

    "input": the channels that enter the block, as pycls and torchvision have it; "own": those of its 3x3, as the
    ModelZoo ancestor has it; None: there is none. `exceptions` are stages in the place of those
    that follow.
    """

    settings: ClassVar[tuple[str, ...]] = ()
    paper: ClassVar[str] = "arXiv 2003.13678"

    depth: int
    initial_width: int
    slope: float
    multiplier: float
    group_width: int
    se: str | None = None
    exceptions: tuple[tuple[int, int], ...] = ()

    def stages(self) -> list[tuple[int, int]]:
        """(width, depth) of each stage; a width is also a multiple of its group width."""
        if self.exceptions:
            return list(self.exceptions)
        linear = self.initial_width + self.slope * np.arange(self.depth)
        powers = np.round(np.log(linear / self.initial_width) / np.log(self.multiplier))
        widths = np.round(self.initial_width * self.multiplier**powers / QUANTUM) * QUANTUM
        return [(self._divisible(int(width)), len(list(blocks))) for width, blocks in groupby(widths)]

    def _divisible(self, width: int) -> int:
        group_width = min(self.group_width, width)
        return round(width / group_width) * group_width

    def groups(self, width: int) -> int:
        """Groups of the 3x3 convolutions of a stage."""
        return width // min(self.group_width, width)

    def hidden(self, c_in: int, width: int) -> int | None:
        """Hidden channels of a block's squeeze-and-excitation; None where it has none."""
        if self.se is None:
            return None
        return round(SE_SHARE * (c_in if self.se == "input" else width))

    def build(self, layers: Layers, num_classes: int) -> nn.Module:
        model = RegNet(self, layers, num_classes)
        initialize(model, "small-head")
        return model


class Block(nn.Module):
    """1x1, grouped 3x3, squeeze-and-excitation or --attention, 1x1, and the shortcut: a bottleneck of ratio 1."""

    def __init__(self, shape: RegNetShape, c_in: int, c_out: int, stride: int, layers: Layers) -> None:
        super().__init__()
        self.proj = None
        if c_in != c_out or stride != 1:
            self.proj = layers.conv_norm_act(c_in, c_out, 1, None, stride=stride, gain_from_data=True)
        steps = OrderedDict(a=layers.conv_norm_act(c_in, c_out, 1, gain_from_data=True))
        steps["b"] = layers.conv_norm_act(c_out, c_out, 3, stride=stride, groups=shape.groups(c_out))
        hidden = shape.hidden(c_in, c_out)
        if attention := layers.branch_attention(c_out) or (hidden and SqueezeExcitation(c_out, hidden)):
            steps["se"] = attention
        steps["c"] = layers.conv_norm_act(c_out, c_out, 1, None, last=True)
        if drop_path := layers.drop_path():
            steps["drop_path"] = drop_path
        self.f = nn.Sequential(steps)
        self.act = layers.act(in_place=True)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.proj is None else self.proj(x)
        return self.act(shortcut + self.f(x))


class RegNet(nn.Module):
    """images: (n, 3, h, w) float, normalized -> logits (n, num_classes)."""

    def __init__(self, shape: RegNetShape, layers: Layers, num_classes: int) -> None:
        super().__init__()
        norm_act = layers.end_norm_act(STEM) or layers.norm_act(STEM)
        self.stem = nn.Sequential(layers.conv(3, STEM, 3, stride=2, gain_from_data=True), *norm_act)
        self.trunk_output = nn.Sequential()
        channels = STEM
        self.levels = {"stem": channels}  # for models.backbone
        for i, (width, depth) in enumerate(shape.stages(), start=1):
            stage = nn.Sequential()
            for j in range(depth):
                stage.add_module(f"block{i}-{j}", Block(shape, channels, width, 1 if j else 2, layers))
                channels = width
            self.trunk_output.add_module(f"block{i}", stage)
            self.levels[f"trunk_output.block{i}"] = channels
        self.bn_last, self.act_last = layers.end_norm_act(channels) or (nn.Identity(), nn.Identity())
        self.avgpool, self.dropout = nn.AdaptiveAvgPool2d(1), layers.dropout()
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.act_last(self.bn_last(self.trunk_output(self.stem(images))))
        return self.fc(self.dropout(self.avgpool(features).flatten(1)))


REGNETS_X = {
    "regnet_x_200mf": RegNetShape(13, 24, 36.44, 2.49, 8),
    "regnet_x_400mf": RegNetShape(22, 24, 24.48, 2.54, 16),
    "regnet_x_600mf": RegNetShape(16, 48, 36.97, 2.24, 24),
    "regnet_x_800mf": RegNetShape(16, 56, 35.73, 2.28, 16),
    "regnet_x_1_6gf": RegNetShape(18, 80, 34.01, 2.25, 24),
    "regnet_x_3_2gf": RegNetShape(25, 88, 26.31, 2.25, 48),
    "regnet_x_4gf": RegNetShape(23, 96, 38.65, 2.43, 40),
    "regnet_x_6_4gf": RegNetShape(17, 184, 60.83, 2.07, 56),
    "regnet_x_8gf": RegNetShape(23, 80, 49.56, 2.88, 120),
    "regnet_x_12gf": RegNetShape(19, 168, 73.36, 2.37, 112),
    "regnet_x_16gf": RegNetShape(22, 216, 55.59, 2.1, 128),
    "regnet_x_32gf": RegNetShape(23, 320, 69.86, 2.0, 168),
}
REGNETS_Y = {
    "regnet_y_200mf": RegNetShape(13, 24, 36.44, 2.49, 8, "input"),
    "regnet_y_400mf": RegNetShape(16, 48, 27.89, 2.09, 8, "input"),
    "regnet_y_600mf": RegNetShape(15, 48, 32.54, 2.32, 16, "input"),
    "regnet_y_800mf": RegNetShape(14, 56, 38.84, 2.4, 16, "input"),
    "regnet_y_1_6gf": RegNetShape(27, 48, 20.71, 2.65, 24, "input"),
    "regnet_y_3_2gf": RegNetShape(21, 80, 42.63, 2.66, 24, "input"),
    "regnet_y_4gf": RegNetShape(22, 96, 31.41, 2.24, 64, "input"),
    "regnet_y_6_4gf": RegNetShape(25, 112, 33.22, 2.27, 72, "input"),
    "regnet_y_8gf": RegNetShape(17, 192, 76.82, 2.19, 56, "input"),
    "regnet_y_12gf": RegNetShape(19, 168, 73.36, 2.37, 112, "input"),
    "regnet_y_16gf": RegNetShape(18, 200, 106.23, 2.48, 112, "input"),
    "regnet_y_32gf": RegNetShape(20, 232, 115.89, 2.53, 232, "input"),
}
# Where others differ from the paper, so that their files load: ModelZoo in Y's hidden channels and X 800MF's depths,
# torchvision in widths that it rounds up where the authors' code rounds to even or down.
EXCEPTIONS = {
    "regnet_x_800mf_modelzoo": ((64, 1), (128, 3), (288, 5), (672, 7)),
    "regnet_x_400mf_torchvision": ((32, 1), (64, 2), (160, 7), (400, 12)),
    "regnet_y_800mf_torchvision": ((64, 1), (144, 3), (320, 8), (784, 2)),
    "regnet_y_8gf_torchvision": ((224, 2), (448, 4), (896, 10), (2016, 1)),
}
PAPERS = REGNETS_X | REGNETS_Y
REGNETS = (
    PAPERS
    | {f"{name}_modelzoo": replace(row, se="own") for name, row in REGNETS_Y.items()}
    | {name: replace(PAPERS[name.rpartition("_")[0]], exceptions=stages) for name, stages in EXCEPTIONS.items()}
)
