"""Switchable normalization: a learned mixture of instance, layer and batch statistics. Luo et al., arXiv 1806.10779."""

import torch
from torch import Tensor, nn

from models.layers.channels import as_column, fewer_than_positions
from models.layers.moments import is_half, mean, mean_square, scaled


class SwitchNorm2d(nn.Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias, each statistic a softmax-weighted sum of three.

    `mean_weight` and `var_weight` (3,) are for instance, layer and batch. Variances are the sample's, as in the
    ModelZoo.pytorch ancestor (seeds.md 5.7); the running statistics are the batch's, with torch's `momentum`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.eps, self.momentum = 1e-5, 0.1
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.mean_weight, self.var_weight = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if is_half(x) and not torch.compiler.is_compiling():
            return self._half(x)
        wide = x.to(torch.promote_types(x.dtype, self.weight.dtype))
        correction = fewer_than_positions(x)
        instance = torch.var_mean(wide, (2, 3), keepdim=True, correction=correction)
        layer = torch.var_mean(wide, (1, 2, 3), keepdim=True)
        batch = self._batch(*torch.var_mean(wide, (0, 2, 3))) if self.training else self._running()
        middle, variance = self._mixed(instance, layer, batch)
        normalized = (wide - middle) * torch.rsqrt(variance + self.eps)
        return (normalized * as_column(self.weight) + as_column(self.bias)).to(x.dtype)

    def _half(self, x: Tensor) -> Tensor:
        """The same with statistics in float32 from the instances' moments, for x in half precision."""
        first, second, positions = mean(x), mean_square(x), x.shape[2] * x.shape[3]
        instance = _sample(first, second, positions, ())
        layer = _sample(first, second, positions, (1,))
        batch = self._running()
        if self.training:
            batch = self._batch(*(values.flatten() for values in _sample(first, second, positions, (0,))))
        middle, variance = self._mixed(instance, layer, batch)
        scale = torch.rsqrt(variance + self.eps) * as_column(self.weight)
        return scaled(x, scale, as_column(self.bias) - middle * scale)

    def _mixed(self, *statistics: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and variance from those (variance and mean) of instance, layer and batch."""
        variances, means = zip(*statistics, strict=True)
        mean = sum(share * value for share, value in zip(self.mean_weight.softmax(0), means, strict=True))
        return mean, sum(share * value for share, value in zip(self.var_weight.softmax(0), variances, strict=True))

    def _running(self) -> tuple[Tensor, Tensor]:
        return as_column(self.running_var), as_column(self.running_mean)

    def _batch(self, variance: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Variance and mean (1, c, 1, 1) of the batch, which also move the running ones."""
        with torch.no_grad():
            self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        return as_column(variance), as_column(mean)


def _sample(first: Tensor, second: Tensor, positions: int, over: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Sample variance and mean over positions and the dimensions `over`, from instances' means and mean squares."""
    count = positions
    for dimension in over:
        count *= first.shape[dimension]
        first, second = first.mean(dimension, keepdim=True), second.mean(dimension, keepdim=True)
    return (second - first.square()).clamp(min=0) * (count / max(1, count - 1)), first
