"""Norm, addition of a shortcut and ReLU in one piece: the reference in plain torch, and Triton kernels for GPUs.

A fused norm is a norm of torch's with the same parameters and another forward. Where the kernels do not apply it is the
reference: float64, whose statistics are to be in float64, and CPUs, but for Triton's interpreter.
"""

import os

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from models.layers.group_norm import GroupNorm
from utils.config.model import ModelConfig
from utils.errors import EnvironmentFault, UsageError

try:
    from models.layers import triton_norm
except ImportError:  # there are builds of torch without it
    triton_norm = None

KERNEL_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def refuse_kernels(config: ModelConfig, device: torch.device, storage: torch.dtype) -> None:
    """EnvironmentFault or UsageError for --kernels triton where no kernel would run; `storage` is the weights' type."""
    if config.kernels != "triton":
        return
    if triton_norm is None:
        raise EnvironmentFault("--kernels triton needs the package triton; pip install triton, or use --kernels plain")
    if device.type != "cuda" and not _interpreted():
        raise EnvironmentFault(f"--kernels triton needs a GPU, found the device {device.type}; use --kernels plain")
    if storage is torch.float64:
        raise UsageError(
            "--kernels triton has no effect with --precision fp64, whose sums are to be in it; leave it out"
        )


def runs_kernels(x: Tensor) -> bool:
    """Whether Triton's kernels can take x."""
    return x.is_cuda or _interpreted()


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


class FusedNorm:
    """Mixed into a norm: what adds a shortcut and applies ReLU too. Called as norm(x) or norm(x, shortcut)."""

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        fits = x.dtype in KERNEL_TYPES and (shortcut is None or (shortcut.dtype, shortcut.shape) == (x.dtype, x.shape))
        if not fits or not runs_kernels(x):
            return self.plain(x, shortcut)
        x = x.contiguous(memory_format=torch.channels_last)
        if shortcut is not None:
            shortcut = shortcut.contiguous(memory_format=torch.channels_last)
        return self.in_kernels(x, shortcut)

    def plain(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        """The same by torch's own operations."""
        y = super().forward(x)
        y = y if shortcut is None else y + shortcut
        return torch.relu(y)

    def in_kernels(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        raise NotImplementedError


class FusedBatchNorm2d(FusedNorm, nn.BatchNorm2d):
    """Batch norm with what follows it. Its statistics are over all positions of all images."""

    def in_kernels(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        n, c, h, w = x.shape
        task = triton_norm.Task(1, n * h * w, c, c, self.eps)
        if self.training and task.p == 1:
            return self.plain(x, shortcut)  # torch says why it cannot be
        if not self.training:
            running = self.running_mean[None], self.running_var[None]
            return _NormAddRelu.apply(x, shortcut, self.weight, self.bias, running, task)[0]
        y, mean, variance = _NormAddRelu.apply(x, shortcut, self.weight, self.bias, None, task)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean[0], self.momentum)
            self.running_var.lerp_(variance[0] * (task.p / (task.p - 1)), self.momentum)
        return y


class FusedGroupNorm(FusedNorm, GroupNorm):
    """Group norm with what follows it. Its statistics are float32 on a GPU too, where torch's own are rounded."""

    def in_kernels(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        n, c, h, w = x.shape
        task = triton_norm.Task(n, h * w, c, self.num_groups, self.eps)
        return _NormAddRelu.apply(x, shortcut, self.weight, self.bias, None, task)[0]


class _NormAddRelu(torch.autograd.Function):
    """x, shortcut, weight, bias, moments or None for those of x -> the answer, mean and variance (b, g)."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        shortcut: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        moments: tuple[Tensor, Tensor] | None,
        task: "triton_norm.Task",
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.task, ctx.fixed, ctx.added = task, moments is not None, shortcut is not None
        moments = moments or triton_norm.statistics(x, task)
        y = triton_norm.normalized(x, shortcut, moments, (weight, bias), task)
        ctx.save_for_backward(x, y if ctx.added else None, *moments, weight, bias)
        ctx.mark_non_differentiable(*moments)
        return y, *moments

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, y, mean, variance, weight, bias = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        moments, gains = (mean, variance), (weight, bias)
        dx, dz, dweight, dbias = triton_norm.gradients(dy, x, y, moments, gains, ctx.task, ctx.fixed)
        return dx, dz if ctx.added else None, dweight, dbias, None, None


def fuse_norm(norm: nn.Module, act: nn.Module) -> bool:
    """Make `norm` one that adds a shortcut and applies `act`, a ReLU, and say whether it could be."""
    kind = {nn.BatchNorm2d: FusedBatchNorm2d, GroupNorm: FusedGroupNorm}.get(type(norm))
    if kind is None or type(act) is not nn.ReLU:
        return False
    norm.__class__ = kind
    return True
