"""Convolutions whose bias, addition of a shortcut and ReLU are one piece: for networks without norms behind them.

On a GPU cuDNN has convolution, bias and ReLU (and addition before it) as one kernel for half precision, which writes
the answer once; elsewhere a Triton kernel follows the convolution. The reference is torch's own operations.
"""

from functools import cache

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from models.layers.convolution import StandardizedConv2d
from models.layers.fused import KERNEL_TYPES, runs_kernels

try:
    from models.layers import triton_bias
except ImportError:  # there are builds of torch without Triton
    triton_bias = None

# Sides of windows. cuDNN's fused convolution was 17 times slower with 7x7 in channels_last (pytorch issue 68506).
CUDNN_WINDOWS = (1, 3)


class FusedConvolution:
    """Mixed into a convolution with a bias: what adds a shortcut and, unless it `is_linear`, applies ReLU too.

    Called as conv(x) or conv(x, shortcut).
    """

    is_linear = False

    @property
    def plain_type(self) -> type[nn.Conv2d]:
        return _fused_type(super().plain_type, self.is_linear)

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        is_like = shortcut is None or shortcut.dtype == dtype
        if not is_like or dtype not in KERNEL_TYPES or not runs_kernels(x):
            return self.plain(x, shortcut)
        weight = self.current_kernel() if isinstance(self, StandardizedConv2d) else self.weight
        x, weight = (tensor.to(dtype, memory_format=torch.channels_last) for tensor in (x, weight))
        window = (self.stride, self.padding, self.dilation, self.groups)
        return _ConvolveAddRelu.apply(x, weight, self.bias, shortcut, window, not self.is_linear)

    def plain(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        """The same by torch's own operations."""
        y = super().forward(x)
        y = y if shortcut is None else y + shortcut
        return y if self.is_linear else torch.relu(y)


@cache
def _fused_type(kind: type[nn.Conv2d], is_linear: bool) -> type[nn.Conv2d]:
    return type(f"Fused{kind.__name__}", (FusedConvolution, kind), {"is_linear": is_linear})


def fuse_convolution(conv: nn.Module, act: nn.Module) -> bool:
    """Make `conv` one that adds a shortcut and applies `act`, a ReLU or nothing, and say whether it could be."""
    kinds = (nn.ReLU, nn.Identity)
    if not isinstance(conv, StandardizedConv2d) or not conv.can_fuse or conv.bias is None or type(act) not in kinds:
        return False
    conv.__class__ = _fused_type(type(conv), type(act) is nn.Identity)
    return True


def takes_cudnn(x: Tensor, weight: Tensor, relu: bool) -> bool:
    """Whether cuDNN's fused convolution is for these."""
    return relu and x.is_cuda and x.dtype is not torch.float32 and weight.shape[-1] in CUDNN_WINDOWS


class _ConvolveAddRelu(torch.autograd.Function):
    """x, weight, bias, shortcut or None, (stride, padding, dilation, groups), whether a ReLU ends it -> the answer."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None, window: tuple, relu: bool
    ) -> Tensor:
        if shortcut is not None:
            shortcut = shortcut.contiguous(memory_format=torch.channels_last)
        if takes_cudnn(x, weight, relu):
            y = _by_cudnn(x, weight, bias.to(x.dtype), shortcut, window)
        else:
            with torch.autocast(x.device.type, enabled=False):
                y = nn.functional.conv2d(x, weight, None, *window).contiguous(memory_format=torch.channels_last)
            y = triton_bias.finished(y, bias, shortcut, relu)
        ctx.save_for_backward(x, weight, y if relu else None)
        ctx.window, ctx.added = window, shortcut is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        dz, dbias = triton_bias.carried_back(dy.contiguous(memory_format=torch.channels_last), y)
        stride, padding, dilation, groups = ctx.window
        wanted = [*ctx.needs_input_grad[:2], False]
        dx, dweight, _ = torch.ops.aten.convolution_backward(
            dz, x, weight, None, stride, padding, dilation, False, (0, 0), groups, wanted
        )
        return dx, dweight, dbias, dz if ctx.added else None, None, None


def _by_cudnn(x: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None, window: tuple) -> Tensor:
    if shortcut is None:
        return torch.ops.aten.cudnn_convolution_relu(x, weight, bias, *window)
    return torch.ops.aten.cudnn_convolution_add_relu(x, weight, shortcut, 1.0, bias, *window)
