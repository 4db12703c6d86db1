"""The computed kernels of a network, all at once before its forward pass: filters of one size share each operation.

Alone, the 53 kernels of ResNet-50 with PWS take hundreds of small operations in forward and backward; its filters have
11 sizes. Under autocast they are cast here, group by group, which autocast would do one by one. All this is for GPUs,
and for evaluations: see `by_device`.

A forward pass has its own kernels, also where a step has several (one for each shard): gradients then reach each
parameter within each backward, where DDP waits for them, and are added in the order that --exact promises. Only inside
`kept_kernels` they outlive it. What runs compiled or traced is left to the compiler, which fuses each kernel by itself.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from models.layers.convolution import Given, StandardizedConv2d, is_channels_last
from models.layers.fused import runs_kernels

try:
    from models.layers import triton_standardization
except ImportError:  # there are builds of torch without triton
    triton_standardization = None

Convolutions = list[StandardizedConv2d]
Kernels = dict[StandardizedConv2d, Tensor]
Method = Callable[[Convolutions], Kernels]  # it may leave some out, which then compute their own


def standardize_together(model: nn.Module, method: Method) -> bool:
    """From now on each forward pass of `model`, and of its copies, begins with all its kernels, if it has any.

    Parts of it that are called by themselves compute their own. Returns whether Triton could compute some.
    """
    convs = _convolutions(model)
    if convs:
        model.register_forward_pre_hook(partial(_give, method))
        model.register_forward_hook(_take_back, always_call=True)
    return any(conv.coefficients for conv in convs)


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


def _convolutions(model: nn.Module) -> Convolutions:
    return [module for module in model.modules() if isinstance(module, StandardizedConv2d)]


def _give(method: Method, model: nn.Module, inputs: object) -> None:
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    convs = [conv for conv in _convolutions(model) if not conv.weight.is_inference()]  # those have no versions
    if all(conv.given is not None and conv.given.state == conv.state() for conv in convs):
        return
    for conv, kernel in method(convs).items():
        conv.given = Given(conv.state(), kernel)


def _take_back(model: nn.Module, inputs: object, output: object) -> None:
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    for conv in _convolutions(model):
        if not conv.kept:
            conv.given = None


def standardized(convs: Convolutions) -> Kernels:
    """The kernel of each, in the type that it computes in, by torch's operations; gradients flow to the parameters."""
    groups: dict[Hashable, Convolutions] = {}
    for conv in convs:
        trained = [p.requires_grad for p in (conv.weight, conv.gain) if p is not None]
        like = (conv.likeness(), conv.weight.dtype, conv.weight.device, conv.compute_type(), *trained)
        groups.setdefault(like, []).append(conv)
    kernels: Kernels = {}
    for group in groups.values():
        together = _kernels(group).to(group[0].compute_type())
        kernels.update(zip(group, together.split([conv.out_channels for conv in group]), strict=True))
    return kernels


def _kernels(group: Convolutions) -> Tensor:
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
        ctx.layout = torch.channels_last if is_channels_last(output) else torch.contiguous_format

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, ...]:
        return gradient.contiguous(memory_format=ctx.layout).split(ctx.lengths)


class TritonStandardization:
    """`standardized` in one launch each way: filters are read where they lie, kernels laid out as the weights.

    Float32 weights on a GPU, or anywhere in Triton's interpreter; other convolutions, and those whose formula it does
    not know, are done by torch's operations. Tables hold addresses: they serve as long as those stay, and no copy.
    """

    def __init__(self) -> None:
        self.tables: dict[torch.dtype, tuple[Hashable, triton_standardization.Table]] = {}

    def __reduce__(self) -> tuple[type, tuple]:
        return TritonStandardization, ()

    def __call__(self, convs: Convolutions) -> Kernels:
        fitting: dict[torch.dtype, Convolutions] = {}
        for conv in convs:
            if _fits(conv):
                fitting.setdefault(conv.compute_type(), []).append(conv)
        done = {conv for group in fitting.values() for conv in group}
        kernels = standardized([conv for conv in convs if conv not in done])
        for dtype, group in fitting.items():
            gained = [i for i, conv in enumerate(group) if conv.gain is not None]
            parameters = [*(conv.weight for conv in group), *(group[i].gain for i in gained)]
            found = _InOneLaunch.apply(self._table(dtype, group), dtype, gained, *parameters)
            kernels.update(zip(group, found, strict=True))
        return kernels

    def _table(self, dtype: torch.dtype, convs: Convolutions) -> "triton_standardization.Table":
        gains = [0 if conv.gain is None else conv.gain.data_ptr() for conv in convs]
        weights = [(conv.weight.data_ptr(), conv.weight.shape, conv.coefficients) for conv in convs]
        key = (weights, gains)
        if dtype not in self.tables or self.tables[dtype][0] != key:
            lists = zip(*((conv.weight.detach(), conv.gain, conv.coefficients) for conv in convs), strict=True)
            self.tables[dtype] = key, triton_standardization.Table(*map(list, lists))
        return self.tables[dtype][1]


def _fits(conv: StandardizedConv2d) -> bool:
    weight = conv.weight
    if triton_standardization is None or conv.coefficients is None or weight.dtype is not torch.float32:
        return False
    whole = weight.is_contiguous() or weight.is_contiguous(memory_format=torch.channels_last)
    return whole and runs_kernels(weight)


class _InOneLaunch(torch.autograd.Function):
    """Weights of all convolutions, then the gains of those that are `gained`, (c_out,) each -> kernels in `dtype`."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        table: "triton_standardization.Table",
        dtype: torch.dtype,
        gained: list[int],
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        elements, moments = table.standardize(dtype)
        weights, trained = parameters[: len(table.lengths)], [p.requires_grad for p in parameters]
        kernels = table.split(elements, weights)
        for i, has_trained_gain in zip(gained, trained[len(weights) :], strict=True):
            trained[i] |= has_trained_gain
        ctx.mark_non_differentiable(*(k for k, moves in zip(kernels, trained, strict=False) if not moves))
        ctx.table, ctx.gained = table, gained
        ctx.save_for_backward(moments, *parameters)
        return tuple(kernels)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        table, (moments, *parameters) = ctx.table, ctx.saved_tensors
        weights = parameters[: len(table.lengths)]
        dkernels = torch.empty(table.elements, dtype=gradients[0].dtype, device=gradients[0].device)
        torch._foreach_copy_(table.split(dkernels, weights), list(gradients))
        dweights, dgains = table.carry_back(moments, dkernels)
        dgains = dgains.split(table.lengths)
        return None, None, None, *table.split(dweights, weights), *(dgains[i] for i in ctx.gained)


def by_device(convs: Convolutions) -> Kernels:
    """On a CPU none, unless they are kept, and each convolution computes its own.

    Operations are started at little cost there, and stacks are copies too large for its caches: ResNet-50's PWS kernels
    took 71 ms alone and 97 ms together, forward and backward on one core (minima of 9; WN 87 and 136).
    """
    return standardized(convs) if convs[0].kept or convs[0].weight.device.type != "cpu" else {}


# auto is not Triton's as long as no GPU has measured it.
METHODS: dict[str, Callable[[], Method]] = {
    "auto": lambda: by_device,
    "plain": lambda: by_device,
    "triton": TritonStandardization,
}
