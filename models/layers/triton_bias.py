"""Bias, addition of a shortcut and ReLU behind a convolution in one pass over memory: Triton kernels, both ways.

Activations lie as channels_last has them, seen as (p, c). Everything is computed in float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.layers.triton_norm import Task


@triton.jit
def _finish(
    x, shortcut, y, bias, p, c,
    ADD: tl.constexpr, RELU: tl.constexpr, TILE_P: tl.constexpr, TILE_C: tl.constexpr,
):  # fmt: skip
    """y = relu(x + bias + shortcut)."""
    row = tl.program_id(0) * TILE_P + tl.arange(0, TILE_P)
    column = tl.program_id(2) * TILE_C + tl.arange(0, TILE_C)
    mask = (row < p)[:, None] & (column < c)[None, :]
    at = row.to(tl.int64)[:, None] * c + column[None, :]
    value = tl.load(x + at, mask=mask, other=0).to(tl.float32)
    value += tl.load(bias + column, mask=column < c, other=0).to(tl.float32)[None, :]
    if ADD:
        value += tl.load(shortcut + at, mask=mask, other=0).to(tl.float32)
    if RELU:
        value = tl.maximum(value, 0.0)
    tl.store(y + at, value.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _carry_back(dy, y, dz, sums, p, c, rows, RELU: tl.constexpr, TILE_P: tl.constexpr, TILE_C: tl.constexpr):
    """dz, the gradient before the ReLU, and sums (s, c) of it over the positions of each split."""
    split = tl.program_id(0)
    column = tl.program_id(2) * TILE_C + tl.arange(0, TILE_C)
    total = tl.zeros((TILE_P, TILE_C), tl.float32)
    for start in range(0, rows, TILE_P):
        row = split * rows + start + tl.arange(0, TILE_P)
        mask = (row < p)[:, None] & (column < c)[None, :]
        at = row.to(tl.int64)[:, None] * c + column[None, :]
        gradient = tl.load(dy + at, mask=mask, other=0).to(tl.float32)
        if RELU:
            gradient = tl.where(tl.load(y + at, mask=mask, other=0).to(tl.float32) > 0, gradient, 0.0)
            tl.store(dz + at, gradient.to(dz.dtype.element_ty), mask=mask)
        total += gradient
    tl.store(sums + split * c + column, tl.sum(total, 0), mask=column < c)


def finished(x: Tensor, bias: Tensor, shortcut: Tensor | None, relu: bool) -> Tensor:
    """relu(x + bias + shortcut), in the place of x (n, c, h, w)."""
    task, add = _task(x), shortcut is not None
    _finish[task.grid()](x, shortcut if add else x, x, bias, task.p, task.c, add, relu, *task.tile)
    return x


def carried_back(dy: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
    """The gradient before the ReLU, and that of the bias (c,) float32, from the answer's; y is None without a ReLU."""
    task, relu = _task(dy), y is not None
    rows, splits = task.cut()
    dz = torch.empty_like(dy) if relu else dy
    sums = dy.new_empty(splits, task.c, dtype=torch.float32)
    _carry_back[task.grid(splits)](dy, y if relu else dy, dz, sums, task.p, task.c, rows, relu, *task.tile)
    return dz, sums.sum(0)


def _task(x: Tensor) -> Task:
    n, c, h, w = x.shape
    return Task(1, n * h * w, c, c, 0.0)
