"""Moments of half-precision activations in float32, and what is done with them, with nothing in float32 to keep.

For norms that torch has no kernel for. On CUDA each function is one pass over x, and reads and writes half precision.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

POSITIONS = (2, 3)


def is_half(x: Tensor) -> bool:
    return x.dtype in (torch.bfloat16, torch.float16)


def mean(x: Tensor) -> Tensor:
    """x: (n, c, h, w) -> its means over positions (n, c, 1, 1) float32."""
    return x.mean(POSITIONS, keepdim=True, dtype=torch.float32)


class _MeanSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        norm = torch.linalg.vector_norm(x, dim=POSITIONS, keepdim=True, dtype=torch.float32)
        return norm.square() / (x.shape[2] * x.shape[3])

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.mul(x, gradient * (2 / (x.shape[2] * x.shape[3])), out=torch.empty_like(x))


def mean_square(x: Tensor) -> Tensor:
    """x: (n, c, h, w) -> the means of its squares over positions (n, c, 1, 1) float32."""
    return _MeanSquare.apply(x)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.shifts = shift.shape
        return torch.addcmul(shift, x, scale, out=torch.empty_like(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, scale = ctx.saved_tensors
        dx = torch.mul(dy, scale, out=torch.empty_like(x))
        dscale = (dy.float() * x).sum(POSITIONS, keepdim=True)
        dshift = dy.sum(POSITIONS, keepdim=True, dtype=torch.float32)
        return dx, dscale.sum_to_size(scale.shape), dshift.sum_to_size(ctx.shifts)


def scaled(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x scale + shift in the type of x; scale and shift: (n or 1, c, 1, 1) float32."""
    return _Scaled.apply(x, scale, shift)
