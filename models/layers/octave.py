"""Octave convolution: channels of high frequency, and others at half the resolution. Chen et al., arXiv 1904.05049.

A map of both is a pair, and so is the number of its channels; where there are no low ones, both are as everywhere.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from models.layers.dropping import DropPath
from models.layers.pooling import DOWNSAMPLINGS
from utils.errors import UsageError


class Frequencies(NamedTuple):
    """The channels of a map of both frequencies."""

    high: int
    low: int


class Octave(NamedTuple):
    """A map of both frequencies: high (n, c, h, w), low (n, c', h // 2, w // 2)."""

    high: Tensor
    low: Tensor

    def __add__(self, other: Octave) -> Octave:
        return Octave(self.high + other.high, self.low + other.low)


Channels = int | Frequencies
Features = Tensor | Octave


def divided(channels: int, alpha: float) -> Channels:
    """The channels with a share `alpha` of them low, rounded down."""
    low = int(alpha * channels)
    return Frequencies(channels - low, low) if low else channels


class Maker(Protocol):
    """What makes the layers: `models.layers.Layers`."""

    def conv(self, c_in: int, c_out: int, kernel_size: int, **options: int | bool) -> nn.Module: ...

    def norm(self, channels: int, *, last: bool = False) -> nn.Module: ...

    def act(self, own: str = "relu", *, in_place: bool = False) -> nn.Module: ...

    def norm_act(
        self, channels: int, act: str = "relu", conv: nn.Module | None = None
    ) -> tuple[nn.Module, nn.Module]: ...

    def attention(self, channels: int) -> nn.Module: ...

    def stage_attention(self, channels: int) -> nn.Module | None: ...

    def drop_path(self, *, has_place: bool = True) -> DropPath | None: ...


class OctaveConv(nn.Module):
    """A convolution from each frequency to each: up to four, of which a side without low channels needs fewer.

    What is to become low is averaged over 2x2 before, what becomes high is repeated after. A stride of 2 is an average
    over 2x2 before all of it, so that no convolution is strided. options: those of `Layers.conv`.
    """

    def __init__(
        self, c_in: Channels, c_out: Channels, kernel_size: int, layers: Maker, stride: int = 1, **options: int | bool
    ) -> None:
        super().__init__()
        self.stride, self.ends_low = stride, isinstance(c_out, Frequencies)
        groups = options.pop("groups", 1)
        depthwise = groups > 1 and groups == _total(c_in) == _total(c_out)
        for source, inputs in _named(c_in).items():
            for target, outputs in _named(c_out).items():
                if depthwise and source != target:
                    continue  # a depthwise channel goes on alone, in its own frequency
                own = inputs if depthwise else _dividing(groups, inputs, outputs)
                conv = layers.conv(inputs, outputs, kernel_size, groups=own, **options)
                self.add_module(f"{source}_{target}", conv)

    def forward(self, x: Features) -> Features:
        high, low = x if isinstance(x, Octave) else (x, None)
        high = _halved(high) if self.stride == 2 else high
        to_high = self.high_high(high)
        if hasattr(self, "low_high"):
            from_low = self.low_high(low)  # after a stride, low maps have the resolution of the new high ones
            to_high = to_high + (F.interpolate(from_low, high.shape[2:]) if self.stride == 1 else from_low)
        if not self.ends_low:
            return to_high
        to_low = [self.high_low(_halved(high))] if hasattr(self, "high_low") else []
        if low is not None:
            to_low.append(self.low_low(_halved(low) if self.stride == 2 else low))
        return Octave(to_high, sum(to_low[1:], to_low[0]))


def _named(channels: Channels) -> dict[str, int]:
    return channels._asdict() if isinstance(channels, Frequencies) else {"high": channels}


def _total(channels: Channels) -> int:
    return sum(_named(channels).values())


def _dividing(groups: int, *channels: int) -> int:
    if any(number % groups for number in channels):
        raise UsageError(
            f"--octave-alpha leaves a convolution with {groups} groups {' and '.join(map(str, channels))} channels of "
            "one frequency, which they do not divide; use 0, 0.25 or 0.5"
        )
    return groups


def _halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


class EachFrequency(nn.Module):
    """A module for the high maps and another for the low ones."""

    def __init__(self, high: nn.Module, low: nn.Module) -> None:
        super().__init__()
        self.high, self.low = high, low

    def forward(self, x: Octave) -> Octave:
        return Octave(self.high(x.high), self.low(x.low))


class BothFrequencies(nn.Module):
    """One module, elementwise, for maps of one frequency or of both."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Features) -> Features:
        return Octave(self.module(x.high), self.module(x.low)) if isinstance(x, Octave) else self.module(x)


class BothDropped(nn.Module):
    """Stochastic depth for maps of one frequency or of both, which share a draw: the branch stays or goes as one."""

    def __init__(self, drop_path: DropPath) -> None:
        super().__init__()
        self.drop_path = drop_path

    def forward(self, x: Features) -> Features:
        if not (isinstance(x, Octave) and self.training and self.drop_path.rate):
            return x if isinstance(x, Octave) else self.drop_path(x)
        factors = self.drop_path.factors(x.high)
        return Octave(x.high * factors, x.low * factors)


class OctaveLayers:
    """`Layers` for maps of both frequencies: each has norms and attentions of its own, and they share activations.

    Nothing stands for a 3x3 convolution, as no such attention joins two frequencies, and nothing but a convolution
    itself changes the resolution.
    """

    def __init__(self, layers: Maker) -> None:
        self.layers = layers

    def __getattr__(self, name: str) -> object:
        return getattr(self.layers, name)

    def norm(self, channels: Channels, *, last: bool = False) -> nn.Module:
        if isinstance(channels, int):
            return self.layers.norm(channels, last=last)
        return EachFrequency(*(self.layers.norm(number, last=last) for number in channels))

    def act(self, own: str = "relu", *, in_place: bool = False) -> nn.Module:
        return BothFrequencies(self.layers.act(own, in_place=in_place))

    def norm_act(
        self, channels: Channels, act: str = "relu", conv: nn.Module | None = None
    ) -> tuple[nn.Module, nn.Module]:
        if isinstance(channels, int):
            return self.layers.norm_act(channels, act, conv)
        (high, shared), (low, _) = (self.layers.norm_act(number, act) for number in channels)
        return EachFrequency(high, low), BothFrequencies(shared)

    def attention(self, channels: Channels) -> nn.Module:
        if isinstance(channels, int):
            return self.layers.attention(channels)
        return EachFrequency(*(self.layers.attention(number) for number in channels))

    def stage_attention(self, channels: Channels) -> nn.Module | None:
        if isinstance(channels, int):
            return self.layers.stage_attention(channels)
        high, low = (self.layers.stage_attention(number) for number in channels)
        return EachFrequency(high, low) if high and low else None

    def drop_path(self) -> BothDropped | None:
        drop_path = self.layers.drop_path()
        return drop_path and BothDropped(drop_path)

    def drop_block(self, share: float) -> None:
        return None

    def conv3x3_norm_act(self, c_in: Channels, c_out: Channels, **options: int) -> None:
        return None

    def stride(self, own: int) -> int:
        return own

    def pool(self, channels: Channels, stride: int) -> None:
        return None

    def shortcut_pool(self, channels: Channels, stride: int) -> None:
        return None

    def max_pool(self, channels: int) -> nn.Module:
        return DOWNSAMPLINGS["stride"].max_pool(channels)
