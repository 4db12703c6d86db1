"""EvoNorm, norms and activations found in one search. Liu et al., arXiv 2004.02967.

Where a network has a norm without an activation, what is left of them is the division by the deviation.
"""

import torch
from torch import Tensor, nn

from models.layers.channels import as_column, fewer_than_positions


class EvoNormB0(nn.Module):
    """x / max(batch deviation, v x + instance deviation) * weight + bias.

    Variances are the sample's, as in the ModelZoo.pytorch ancestor (seeds.md 5.5); the running one is the batch's, with
    torch's meaning of `momentum`. With `linear` the maximum is the batch deviation.
    """

    def __init__(self, channels: int, *, linear: bool = False) -> None:
        super().__init__()
        self.eps, self.momentum = 1e-5, 0.1
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.v = None if linear else nn.Parameter(torch.ones(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, self.weight.dtype))
        variance = self.running_var
        if self.training:
            variance = wide.var((0, 2, 3))
            with torch.no_grad():
                self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)
        scale = as_column(variance + self.eps).sqrt()
        if self.v is not None:
            instance = wide.var((2, 3), keepdim=True, correction=fewer_than_positions(x))
            scale = torch.maximum(scale, as_column(self.v) * wide + (instance + self.eps).sqrt())
        return (wide / scale * as_column(self.weight) + as_column(self.bias)).to(x.dtype)


class EvoNormS0(nn.Module):
    """x sigmoid(v x) / group deviation * weight + bias; with `linear` without the sigmoid.

    `correction` of the group variance: 0 as in the paper, 1 for the sample's.
    """

    def __init__(self, channels: int, groups: int, *, linear: bool = False, correction: int = 0) -> None:
        super().__init__()
        self.eps, self.groups, self.correction = 1e-5, groups, correction
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.v = None if linear else nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, self.weight.dtype))
        grouped = wide.unflatten(1, (self.groups, -1))  # (n, g, c/g, h, w)
        variance = grouped.var((2, 3, 4), keepdim=True, correction=self.correction)
        y = wide if self.v is None else wide * torch.sigmoid(as_column(self.v) * wide)
        y = (y.view_as(grouped) / (variance + self.eps).sqrt()).flatten(1, 2)
        return (y * as_column(self.weight) + as_column(self.bias)).to(x.dtype)
