"""What halves the resolution inside a network, in the place of strides: blur pooling, local importance pooling.

Blur: Zhang, arXiv 1904.11486. Local importance: Gao et al., arXiv 1908.04156. A pooling stands behind a convolution and
its activation, where the convolution would have had stride 2, before the projection of a shortcut, and for the stem's
max pooling. In the LIP paper's ResNet the 3x3 behind a pooling is a 1x1, and both poolings of a block share features;
here the convolutions stay what they are.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers.convolution import ZeroConv2d

GATE = 12.0  # the largest logarithm of an importance, as in the LIP authors' code
BOTTLENECK = 128  # channels inside what computes importances, the paper's Bottleneck-128


class BlurPool2d(nn.Module):
    """x: (n, c, h, w) -> (n, c, h/2, w/2), rounded up: every second position after the blur [1, 2, 1] / 4.

    That blur is two means of neighbours, one after the other. Outside, x goes on as in a mirror, as the author has it.
    """

    def forward(self, x: Tensor) -> Tensor:
        mode = "reflect" if min(x.shape[2:]) > 1 else "replicate"  # nothing to mirror in one position
        padded = functional.pad(x, (1, 1, 1, 1), mode=mode)
        return functional.avg_pool2d(functional.avg_pool2d(padded, 2, stride=1), 2, stride=2)


class LocalImportancePool2d(nn.Module):
    """x: (n, c, h, w) -> (n, c, h/2, w/2), rounded up: means of 3x3 positions, weighed by exp(12 sigmoid(logit(x))).

    It starts as the plain mean: the last convolution of `logit`, which gives its `channels`, starts at zero.
    """

    def __init__(self, logit: nn.Sequential) -> None:
        super().__init__()
        self.logit = logit

    def forward(self, x: Tensor) -> Tensor:
        # Divided by exp(12), which cancels, so that halves do not overflow.
        importance = torch.exp(GATE * (torch.sigmoid(self.logit(x)) - 1))
        return _mean(x * importance) / _mean(importance)


def _mean(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 3, stride=2, padding=1)


def simple_logit(channels: int) -> nn.Sequential:
    """One 3x3 convolution, the paper's choice for the stem."""
    conv = ZeroConv2d(channels, channels, 3, padding=1, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.InstanceNorm2d(channels, affine=True)))


def bottleneck_logit(channels: int) -> nn.Sequential:
    """1x1, 3x3, 1x1, the paper's choice for blocks."""
    steps: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (c_in, kernel_size) in enumerate(((channels, 1), (BOTTLENECK, 3)), start=1):
        steps[f"conv{i}"] = nn.Conv2d(c_in, BOTTLENECK, kernel_size, padding=kernel_size // 2, bias=False)
        steps[f"norm{i}"], steps[f"act{i}"] = nn.InstanceNorm2d(BOTTLENECK, affine=True), nn.ReLU()
    steps["conv3"] = ZeroConv2d(BOTTLENECK, channels, 1, bias=False)
    steps["norm3"] = nn.InstanceNorm2d(channels, affine=True)
    return nn.Sequential(steps)


@dataclass(frozen=True)
class Downsampling:
    """One choice of --downsampling: what halves the resolution of so many channels, and what pools maxima in the stem.

    `pool` is None where convolutions have strides.
    """

    max_pool: Callable[[int], nn.Module]
    pool: Callable[[int], nn.Module] | None = None


def _blurred_max_pool(channels: int) -> nn.Module:
    return nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), BlurPool2d())


DOWNSAMPLINGS = {
    "stride": Downsampling(lambda channels: nn.MaxPool2d(3, stride=2, padding=1)),
    "blur": Downsampling(_blurred_max_pool, lambda channels: BlurPool2d()),
    "lip": Downsampling(
        lambda channels: LocalImportancePool2d(simple_logit(channels)),
        lambda channels: LocalImportancePool2d(bottleneck_logit(channels)),
    ),
}
