"""The lambda layer: each position's query is multiplied by a matrix made of its context. Bello, arXiv 2102.08602."""

from typing import Protocol

import torch
from torch import Tensor, nn


class Maker(Protocol):
    """What makes the norms: `models.layers.Layers`."""

    def gate_norm(self, channels: int) -> nn.Module: ...


class LocalPositions(nn.Module):
    """Position lambdas of the r x r neighbours, by one filter for each channel of the keys.

    values: (n, v, h, w) -> (n, k, v, h w).
    """

    def __init__(self, keys: int, context: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, keys, context, padding=context // 2)

    def forward(self, values: Tensor) -> Tensor:
        lambdas = self.conv(values.flatten(0, 1)[:, None])  # (n v, k, h, w)
        return lambdas.flatten(2).unflatten(0, values.shape[:2]).transpose(1, 2)


class GlobalPositions(nn.Module):
    """Position lambdas of all positions of a map that has `positions` of them. values and result as LocalPositions."""

    def __init__(self, keys: int, positions: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(positions, positions, keys))  # of each pair: query's and context's

    def forward(self, values: Tensor) -> Tensor:
        return torch.einsum("pmk,nvm->nkvp", self.embedding, values.flatten(2))


class LambdaLayer(nn.Module):
    """x: (n, c_in, h, w) -> (n, c_out, h, w), strided by an average over 3x3 behind.

    Queries have `heads` parts of as many channels as the keys, which are a softmax over positions. Each position's
    lambda, a matrix from queries to c_out / heads values, is the keys' mean of all values and the `positions`' of near
    ones; heads share it. Norms of queries and values are the caller's.
    """

    def __init__(
        self, c_in: int, c_out: int, heads: int, keys: int, positions: nn.Module, layers: Maker, stride: int = 1
    ) -> None:
        super().__init__()
        self.heads, self.positions = heads, positions
        self.to_q, self.norm_q = nn.Conv2d(c_in, heads * keys, 1, bias=False), layers.gate_norm(heads * keys)
        self.to_k = nn.Conv2d(c_in, keys, 1, bias=False)
        self.to_v, self.norm_v = nn.Conv2d(c_in, c_out // heads, 1, bias=False), layers.gate_norm(c_out // heads)
        self.pool = nn.AvgPool2d(3, stride, padding=1) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        queries = self.norm_q(self.to_q(x)).flatten(2).unflatten(1, (self.heads, -1))  # (n, heads, k, h w)
        keys = self.to_k(x).flatten(2).softmax(2)  # (n, k, h w)
        values = self.norm_v(self.to_v(x))  # (n, v, h, w)
        content = torch.einsum("nkm,nvm->nkv", keys, values.flatten(2))
        lambdas = content[..., None] + self.positions(values)  # (n, k, v, h w)
        outputs = torch.einsum("nokp,nkvp->novp", queries, lambdas)
        return self.pool(outputs.flatten(1, 2).unflatten(2, x.shape[2:]))
