"""Switchable normalization: a learned mixture of instance, layer and batch statistics. Luo et al., arXiv 1806.10779."""

import torch
from torch import Tensor, nn

from models.layers.channels import as_column, fewer_than_positions


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
        wide = x.to(torch.promote_types(x.dtype, self.weight.dtype))
        correction = fewer_than_positions(x)
        instance = torch.var_mean(wide, (2, 3), keepdim=True, correction=correction)
        layer = torch.var_mean(wide, (1, 2, 3), keepdim=True)
        variances, means = zip(instance, layer, self._batch(wide), strict=True)
        mean = sum(share * value for share, value in zip(self.mean_weight.softmax(0), means, strict=True))
        variance = sum(share * value for share, value in zip(self.var_weight.softmax(0), variances, strict=True))
        normalized = (wide - mean) * torch.rsqrt(variance + self.eps)
        return (normalized * as_column(self.weight) + as_column(self.bias)).to(x.dtype)

    def _batch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Variance and mean (1, c, 1, 1): the batch's, which also move the running ones, or in evaluation those."""
        if not self.training:
            return as_column(self.running_var), as_column(self.running_mean)
        variance, mean = torch.var_mean(x, (0, 2, 3))
        with torch.no_grad():
            self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        return as_column(variance), as_column(mean)
