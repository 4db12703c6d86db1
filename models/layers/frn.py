"""Filter response normalization and its thresholded linear unit. Singh and Krishnan, arXiv 1911.09737."""

import torch
from torch import Tensor, nn

from models.layers.channels import as_column
from models.layers.moments import is_half, mean_square, scaled


class FilterResponseNorm(nn.Module):
    """max(weight x / sqrt(mean of x^2 over positions + eps) + bias, tau); with `linear` without the threshold.

    eps is fixed; the paper learns it only where there is one position.
    """

    def __init__(self, channels: int, *, linear: bool = False) -> None:
        super().__init__()
        self.eps = 1e-6
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.tau = None if linear else nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if is_half(x) and not torch.compiler.is_compiling():
            return self._half(x)
        wide = x.to(torch.promote_types(x.dtype, self.weight.dtype))
        scale = torch.rsqrt(wide.square().mean((2, 3), keepdim=True) + self.eps)
        y = wide * scale * as_column(self.weight) + as_column(self.bias)
        return (y if self.tau is None else torch.maximum(y, as_column(self.tau))).to(x.dtype)

    def _half(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(mean_square(x) + self.eps) * as_column(self.weight)
        if self.tau is None:
            return scaled(x, scale, as_column(self.bias))
        tau = as_column(self.tau)
        # Rounding before the comparison would put one value in some hundred on the wrong side of tau, but none of zero.
        return torch.relu(scaled(x, scale, as_column(self.bias) - tau)) + tau.to(x.dtype)
