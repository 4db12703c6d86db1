"""Norm, addition of a shortcut and ReLU in the least passes over memory: Triton kernels, forward and backward.

Activations lie as channels_last has them, seen as x (b, p, c): for group norm b images of p positions, for batch norm
one batch of all positions; channels are in g groups. Statistics need one pass over x and the answer another; the
backward reads twice what it is made of. Everything is computed in float32, and added in an order that depends on shapes
alone.

`sums` is (2, b, s, c): each of s programs adds up the positions of one split. No kernel waits for another's numbers.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 2048  # elements that a program has at hand; with 4096 the backward wants 159 registers of an H100, so 94
PROGRAMS = 1024  # that are enough to fill a GPU
WIDEST = 128  # channels of a tile


@triton.jit
def _moments(x, sums, b, p, c, rows, splits, TILE_P: tl.constexpr, TILE_C: tl.constexpr):
    """Of x minus its first position, and of the square of that: without it a large mean would eat the digits."""
    split, batch = tl.program_id(0), tl.program_id(1)
    column = tl.program_id(2) * TILE_C + tl.arange(0, TILE_C)
    x += batch.to(tl.int64) * p * c
    pivot = tl.load(x + column, mask=column < c, other=0).to(tl.float32)
    first, second = tl.zeros((TILE_P, TILE_C), tl.float32), tl.zeros((TILE_P, TILE_C), tl.float32)
    for start in range(0, rows, TILE_P):
        row = split * rows + start + tl.arange(0, TILE_P)
        mask = (row < p)[:, None] & (column < c)[None, :]
        value = tl.load(x + row.to(tl.int64)[:, None] * c + column[None, :], mask=mask, other=0).to(tl.float32)
        value = tl.where(mask, value - pivot[None, :], 0.0)
        first += value
        second += value * value
    sums += (batch * splits + split) * c + column
    tl.store(sums, tl.sum(first, 0), mask=column < c)
    tl.store(sums + b * splits * c, tl.sum(second, 0), mask=column < c)


@triton.jit
def _statistics(x, sums, mean, variance, b, p, c, g, splits, TILE_S: tl.constexpr, TILE_C: tl.constexpr):
    """mean, variance: (b, g) of a group, from the moments of its channels (Chan et al. 1979)."""
    batch, group = tl.program_id(0), tl.program_id(1)
    size = c // g
    member = tl.arange(0, TILE_C)
    inside, column = member < size, group * size + member
    first, second = tl.zeros((TILE_S, TILE_C), tl.float32), tl.zeros((TILE_S, TILE_C), tl.float32)
    for start in range(0, splits, TILE_S):
        split = start + tl.arange(0, TILE_S)
        mask = (split < splits)[:, None] & inside[None, :]
        at = sums + (batch * splits + split)[:, None] * c + column[None, :]
        first += tl.load(at, mask=mask, other=0)
        second += tl.load(at + b * splits * c, mask=mask, other=0)
    offset = tl.sum(first, 0) / p
    squares = tl.where(inside, tl.sum(second, 0) - p * offset * offset, 0.0)
    pivot = tl.load(x + batch.to(tl.int64) * p * c + column, mask=inside, other=0).to(tl.float32)
    middle = tl.sum(tl.where(inside, pivot + offset, 0.0), 0) / size
    apart = tl.where(inside, pivot + offset - middle, 0.0)
    total = tl.sum(squares, 0) + p * tl.sum(apart * apart, 0)
    tl.store(mean + batch * g + group, middle)
    tl.store(variance + batch * g + group, tl.maximum(total, 0.0) / (p * size))


@triton.jit
def _normalize(
    x, shortcut, y, mean, variance, weight, bias, p, c, g, eps,
    ADD: tl.constexpr, TILE_P: tl.constexpr, TILE_C: tl.constexpr,
):  # fmt: skip
    """y = relu((x - mean) / deviation * weight + bias + shortcut)."""
    row, batch = tl.program_id(0) * TILE_P + tl.arange(0, TILE_P), tl.program_id(1)
    column = tl.program_id(2) * TILE_C + tl.arange(0, TILE_C)
    inside = column < c
    group = batch * g + column // (c // g)
    scale = 1 / tl.sqrt(tl.load(variance + group, mask=inside, other=1) + eps)
    scale *= tl.load(weight + column, mask=inside, other=0).to(tl.float32)
    middle = tl.load(mean + group, mask=inside, other=0)
    shift = tl.load(bias + column, mask=inside, other=0).to(tl.float32)
    mask = (row < p)[:, None] & inside[None, :]
    at = (batch.to(tl.int64) * p + row)[:, None] * c + column[None, :]
    value = tl.load(x + at, mask=mask, other=0).to(tl.float32)
    value = (value - middle[None, :]) * scale[None, :] + shift[None, :]
    if ADD:
        value += tl.load(shortcut + at, mask=mask, other=0).to(tl.float32)
    tl.store(y + at, tl.maximum(value, 0.0).to(y.dtype.element_ty), mask=mask)


@triton.jit
def _gradient_sums(
    dy, x, y, dz, sums, mean, variance, weight, bias, b, p, c, g, eps, rows, splits,
    ADD: tl.constexpr, TILE_P: tl.constexpr, TILE_C: tl.constexpr,
):  # fmt: skip
    """Of dz, the gradient before the ReLU, and of dz times the normalized x. Where there is a shortcut, dz is its
    gradient, and is written; else it is cheaper to compute it twice."""
    split, batch = tl.program_id(0), tl.program_id(1)
    column = tl.program_id(2) * TILE_C + tl.arange(0, TILE_C)
    inside = column < c
    group = batch * g + column // (c // g)
    rate = 1 / tl.sqrt(tl.load(variance + group, mask=inside, other=1) + eps)
    middle = tl.load(mean + group, mask=inside, other=0)
    gain = tl.load(weight + column, mask=inside, other=0).to(tl.float32)
    shift = tl.load(bias + column, mask=inside, other=0).to(tl.float32)
    first, second = tl.zeros((TILE_P, TILE_C), tl.float32), tl.zeros((TILE_P, TILE_C), tl.float32)
    for start in range(0, rows, TILE_P):
        row = split * rows + start + tl.arange(0, TILE_P)
        mask = (row < p)[:, None] & inside[None, :]
        at = (batch.to(tl.int64) * p + row)[:, None] * c + column[None, :]
        gradient = tl.load(dy + at, mask=mask, other=0).to(tl.float32)
        normal = (tl.load(x + at, mask=mask, other=0).to(tl.float32) - middle[None, :]) * rate[None, :]
        if ADD:
            gradient = tl.where(tl.load(y + at, mask=mask, other=0).to(tl.float32) > 0, gradient, 0.0)
            tl.store(dz + at, gradient.to(dz.dtype.element_ty), mask=mask)
        else:
            gradient = tl.where(normal * gain[None, :] + shift[None, :] > 0, gradient, 0.0)
        first += gradient
        second += tl.where(mask, gradient * normal, 0.0)
    sums += (batch * splits + split) * c + column
    tl.store(sums, tl.sum(first, 0), mask=inside)
    tl.store(sums + b * splits * c, tl.sum(second, 0), mask=inside)


@triton.jit
def _gradient_means(sums, weight, means, b, p, c, g, splits, TILE_S: tl.constexpr, TILE_C: tl.constexpr):
    """means (2, b, g): over a group, of weight times the sums."""
    batch, group = tl.program_id(0), tl.program_id(1)
    size = c // g
    member = tl.arange(0, TILE_C)
    inside, column = member < size, group * size + member
    gain = tl.load(weight + column, mask=inside, other=0).to(tl.float32)
    first, second = tl.zeros((TILE_S, TILE_C), tl.float32), tl.zeros((TILE_S, TILE_C), tl.float32)
    for start in range(0, splits, TILE_S):
        split = start + tl.arange(0, TILE_S)
        mask = (split < splits)[:, None] & inside[None, :]
        at = sums + (batch * splits + split)[:, None] * c + column[None, :]
        first += tl.load(at, mask=mask, other=0)
        second += tl.load(at + b * splits * c, mask=mask, other=0)
    at = means + batch * g + group
    tl.store(at, tl.sum(tl.sum(first, 0) * gain, 0) / (p * size))
    tl.store(at + b * g, tl.sum(tl.sum(second, 0) * gain, 0) / (p * size))


@triton.jit
def _gradient(
    dy, x, dx, means, mean, variance, weight, bias, b, p, c, g, eps,
    ADD: tl.constexpr, TILE_P: tl.constexpr, TILE_C: tl.constexpr,
):  # fmt: skip
    """dx = (weight dz - mean of that - normalized x times the mean of their product) / deviation. Where a shortcut was
    added dy is dz already."""
    row, batch = tl.program_id(0) * TILE_P + tl.arange(0, TILE_P), tl.program_id(1)
    column = tl.program_id(2) * TILE_C + tl.arange(0, TILE_C)
    inside = column < c
    group = batch * g + column // (c // g)
    rate = 1 / tl.sqrt(tl.load(variance + group, mask=inside, other=1) + eps)
    middle = tl.load(mean + group, mask=inside, other=0)
    gain = tl.load(weight + column, mask=inside, other=0).to(tl.float32)
    shift = tl.load(bias + column, mask=inside, other=0).to(tl.float32)
    plain = tl.load(means + group, mask=inside, other=0)
    slope = tl.load(means + b * g + group, mask=inside, other=0)
    mask = (row < p)[:, None] & inside[None, :]
    at = (batch.to(tl.int64) * p + row)[:, None] * c + column[None, :]
    gradient = tl.load(dy + at, mask=mask, other=0).to(tl.float32)
    normal = (tl.load(x + at, mask=mask, other=0).to(tl.float32) - middle[None, :]) * rate[None, :]
    if not ADD:
        gradient = tl.where(normal * gain[None, :] + shift[None, :] > 0, gradient, 0.0)
    gradient = (gradient * gain[None, :] - plain[None, :] - normal * slope[None, :]) * rate[None, :]
    tl.store(dx + at, gradient.to(dx.dtype.element_ty), mask=mask)


@dataclass(frozen=True)
class Task:
    """What is normalized: x as (b, p, c), its channels in g groups, eps for the variance."""

    b: int
    p: int
    c: int
    g: int
    eps: float

    @property
    def tile(self) -> tuple[int, int]:
        """Positions and channels that a program has at hand."""
        channels = min(WIDEST, triton.next_power_of_2(self.c))
        return TILE // channels, channels

    def cut(self) -> tuple[int, int]:
        """Positions of a split, whole tiles, and the number of splits."""
        positions, channels = self.tile
        tiles = triton.cdiv(self.p, positions)
        wanted = triton.cdiv(PROGRAMS, self.b * triton.cdiv(self.c, channels))
        rows = triton.cdiv(tiles, wanted) * positions
        return rows, triton.cdiv(self.p, rows)

    def grid(self, splits: int | None = None) -> tuple[int, int, int]:
        """Programs over splits, or over tiles of positions."""
        positions, channels = self.tile
        return splits or triton.cdiv(self.p, positions), self.b, triton.cdiv(self.c, channels)

    def reduction(self, splits: int) -> tuple[int, int]:
        """The tile in which a program adds up the splits of a group."""
        members = triton.next_power_of_2(self.c // self.g)
        return max(1, min(triton.next_power_of_2(splits), TILE // members)), members


def statistics(x: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    """Mean and population variance (b, g) float32 of x."""
    b, p, c, g = task.b, task.p, task.c, task.g
    rows, splits = task.cut()
    sums = x.new_empty(2, b, splits, c, dtype=torch.float32)
    mean, variance = x.new_empty(2, b, g, dtype=torch.float32)
    _moments[task.grid(splits)](x, sums, b, p, c, rows, splits, *task.tile)
    _statistics[b, g](x, sums, mean, variance, b, p, c, g, splits, *task.reduction(splits))
    return mean, variance


def normalized(
    x: Tensor, shortcut: Tensor | None, moments: tuple[Tensor, Tensor], gains: tuple[Tensor, Tensor], task: Task
) -> Tensor:
    """relu((x - mean) / sqrt(variance + eps) * weight + bias + shortcut), in the type of x; gains: weight and bias."""
    y, add = torch.empty_like(x), shortcut is not None
    sizes = (task.p, task.c, task.g, task.eps)
    _normalize[task.grid()](x, shortcut if add else x, y, *moments, *gains, *sizes, add, *task.tile)
    return y


def gradients(
    dy: Tensor,
    x: Tensor,
    y: Tensor | None,
    moments: tuple[Tensor, Tensor],
    gains: tuple[Tensor, Tensor],
    task: Task,
    fixed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, of what was before the ReLU, of weight and of bias, from that of the answer.

    `y` is the answer where a shortcut was added. `fixed` moments did not come from x. Without shortcut
    the second gradient is not computed, and dy is in its place.
    """
    b, p, c, g, eps = task.b, task.p, task.c, task.g, task.eps
    rows, splits = task.cut()
    add = y is not None
    dz = torch.empty_like(dy) if add else dy
    sums = x.new_empty(2, b, splits, c, dtype=torch.float32)
    given = (dy, x, y if add else x, dz, sums, *moments, *gains)
    _gradient_sums[task.grid(splits)](*given, b, p, c, g, eps, rows, splits, add, *task.tile)
    means = x.new_zeros(2, b, g, dtype=torch.float32)
    if not fixed:
        _gradient_means[b, g](sums, gains[0], means, b, p, c, g, splits, *task.reduction(splits))
    dx = torch.empty_like(x)
    _gradient[task.grid()](dz, x, dx, means, *moments, *gains, b, p, c, g, eps, add, *task.tile)
    dbias, dweight = sums.sum((1, 2))
    return dx, dz, dweight, dbias
