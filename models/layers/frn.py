"""Filter response normalization and its thresholded linear unit. Singh and Krishnan, arXiv 1911.09737."""

import torch
from torch import Tensor, nn

from models.layers.channels import as_column


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
        wide = x.to(torch.promote_types(x.dtype, self.weight.dtype))
        scale = torch.rsqrt(wide.square().mean((2, 3), keepdim=True) + self.eps)
        y = wide * scale * as_column(self.weight) + as_column(self.bias)
        return (y if self.tau is None else torch.maximum(y, as_column(self.tau))).to(x.dtype)
