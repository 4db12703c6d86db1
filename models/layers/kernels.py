"""The computed kernels of a network, all at once before its forward pass: filters of one size share each operation.

Alone, the 53 kernels of ResNet-50 with PWS take hundreds of small operations in forward and backward; its filters have
11 sizes. Under autocast they are cast here, group by group, which autocast would do one by one.

A forward pass has its own kernels, also where a step has several (one for each shard): gradients then reach each
parameter within each backward, where DDP waits for them, and are added in the order that --exact promises. Only inside
`kept_kernels` they outlive it. What runs compiled or traced is left to the compiler, which fuses each kernel by itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from models.layers.convolution import Given, StandardizedConv2d


def standardize_together(model: nn.Module) -> None:
    """From now on each forward pass of `model`, and of its copies, begins with all its kernels.

    Parts of it that are called by themselves compute their own.
    """
    if _convolutions(model):
        model.register_forward_pre_hook(_give)
        model.register_forward_hook(_take_back, always_call=True)


@contextmanager
def kept_kernels(model: nn.Module) -> Iterator[None]:
    """While it lasts, kernels are computed anew only where a parameter has changed, or gradients are wanted.

    It is for an evaluation and no longer, since torch's version counters do not tell of all changes: neither of `.data`
    that is written to in place nor, in torch 2.15, of a fused optimizer's step (which wants gradients before).
    """
    convs = _convolutions(model)
    for conv in convs:
        conv.kept = True
    try:
        yield
    finally:
        for conv in convs:
            conv.kept, conv.given = False, None


def _convolutions(model: nn.Module) -> list[StandardizedConv2d]:
    return [module for module in model.modules() if isinstance(module, StandardizedConv2d)]


def _give(model: nn.Module, inputs: object) -> None:
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    convs = [conv for conv in _convolutions(model) if not conv.weight.is_inference()]  # those have no versions
    if all(conv.given is not None and conv.given.state == conv.state() for conv in convs):
        return
    for conv, kernel in standardized(convs).items():
        conv.given = Given(conv.state(), kernel)


def _take_back(model: nn.Module, inputs: object, output: object) -> None:
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    for conv in _convolutions(model):
        if not conv.kept:
            conv.given = None


def standardized(convs: list[StandardizedConv2d]) -> dict[StandardizedConv2d, Tensor]:
    """The kernel of each, in the type that it computes in; gradients flow to the parameters."""
    groups: dict[object, list[StandardizedConv2d]] = {}
    for conv in convs:
        trained = [p.requires_grad for p in (conv.weight, conv.gain) if p is not None]
        like = (conv.likeness(), conv.weight.dtype, conv.weight.device, conv.compute_type(), *trained)
        groups.setdefault(like, []).append(conv)
    kernels: dict[StandardizedConv2d, Tensor] = {}
    for group in groups.values():
        together = _kernels(group).to(group[0].compute_type())
        kernels.update(zip(group, together.split([conv.out_channels for conv in group]), strict=True))
    return kernels


def _kernels(group: list[StandardizedConv2d]) -> Tensor:
    first, *others = group
    if not others:
        return first.kernel()
    gains = None if first.gain is None else _Stacked.apply(*(conv.gain for conv in group))
    return first.standardized(_Stacked.apply(*(conv.weight for conv in group)), gains)


class _Stacked(torch.autograd.Function):
    """Tensors end to end. Unlike torch.cat it gives the gradients back in one operation, in the tensors' layout."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*parts: Tensor) -> Tensor:
        return torch.cat(parts)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.lengths = [len(part) for part in inputs]
        strided = output.ndim == 4 and not output.is_contiguous()
        ctx.layout = torch.channels_last if strided else torch.contiguous_format

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, ...]:
        return gradient.contiguous(memory_format=ctx.layout).split(ctx.lengths)
