"""Split attention: a 3x3 convolution in several splits, mixed by channel. Zhang et al., arXiv 2004.08955 (ResNeSt)."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


class Maker(Protocol):
    """What makes the layers: `models.layers.Layers`."""

    def conv(self, c_in: int, c_out: int, kernel_size: int, **options: int) -> nn.Module: ...

    def norm_act(self, channels: int) -> tuple[nn.Module, nn.Module]: ...

    def gate_norm(self, channels: int) -> nn.Module: ...


@dataclass(frozen=True)
class Splits:
    """How a split attention is made: the number of splits, and the channels inside the network that weighs them.

    `authors`: as the authors' code has it: a stride is an average over 3x3 behind the attention, and the first layer of
    the network inside has a bias before its norm. Otherwise as ModelZoo.pytorch has it: the convolution is strided, and
    there is no such bias (seeds.md 5.3).
    """

    hidden: int
    radix: int = 2
    authors: bool = False


class SplitAttention(nn.Module):
    """x: (n, radix c, h, w), split after split -> their sum (n, c, h, w), weighted by a softmax over splits.

    The weights of each channel come from the mean of the plain sum, through `hidden` channels; `groups` divides both
    layers of that small network, and its outputs, into parts that know nothing of each other.
    """

    def __init__(self, channels: int, groups: int, splits: Splits, layers: Maker) -> None:
        super().__init__()
        self.radix, self.groups = splits.radix, groups
        self.fc1 = nn.Conv2d(channels, splits.hidden, 1, groups=groups, bias=splits.authors)
        self.bn1, self.act1 = layers.gate_norm(splits.hidden), nn.ReLU()
        self.fc2 = nn.Conv2d(splits.hidden, channels * splits.radix, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.unflatten(1, (self.radix, -1))  # (n, r, c, h, w)
        means = parts.sum(1).mean((2, 3), keepdim=True)  # (n, c, 1, 1)
        logits = self.fc2(self.act1(self.bn1(self.fc1(means))))  # (n, g r c/g, 1, 1)
        weights = logits.unflatten(1, (self.groups, self.radix, -1)).softmax(2).transpose(1, 2)  # (n, r, g, c/g, 1, 1)
        return (parts * weights.flatten(2, 3)).sum(1)


class SplitAttentionConv(SplitAttention):
    """The 3x3 convolution that makes the splits, its norm and activation, and their attention. The authors' names."""

    def __init__(self, c_in: int, c_out: int, stride: int, groups: int, splits: Splits, layers: Maker) -> None:
        super().__init__(c_out, groups, splits, layers)
        in_conv, behind = (1, stride) if splits.authors else (stride, 1)
        self.conv = layers.conv(c_in, c_out * splits.radix, 3, stride=in_conv, groups=groups * splits.radix)
        self.bn0, self.act0 = layers.norm_act(c_out * splits.radix)
        self.pool = nn.AvgPool2d(3, behind, padding=1) if behind > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(super().forward(self.act0(self.bn0(self.conv(x)))))
