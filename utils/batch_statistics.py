"""Running statistics of norms, estimated anew with the weights as they are: means over batches, each weighing the same.

For the mean of many weights, whose own statistics nobody has seen (Izmailov et al. 2018, arXiv 1803.05407), and in the
place of a moving average that lags behind the weights ("precise" batch norm: Wu and Johnson 2021, arXiv 2105.07576).
Variances are the mean of the batches', as torch's `update_bn` has it, or "pooled", as the second paper has it: that and
the variance of the batches' means.
"""

import contextlib
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.distributed import World


def keeps_statistics(model: nn.Module) -> bool:
    """Whether anything in `model` has running statistics that a forward pass in training moves."""
    with _norms_in_training(model) as norms:
        return bool(norms)


@torch.no_grad()
def reestimate(model: nn.Module, batches: Iterable[Tensor], world: World, *, pooled: bool = False) -> None:
    """Set every running statistic to the mean of what it is in each batch, (n, 3, h, w) normalized.

    With `pooled` variances are those of all batches together: E[mean^2 + variance] - E[mean]^2.

    Only norms are in training while it lasts: no dropout, no draws, no other trace; frozen norms and those that a
    forward pass does not reach stay. Every rank brings equally many batches. They are added in float64 in the order
    first of all ranks, second of all ranks, ...: if batch j goes to rank j % W, no bit depends on W. No batch is asked
    for where there are no norms; ValueError if there are some but no batches.
    """
    with _norms_in_training(model) as norms, _moved_whole(norms), _reached(norms) as reached:
        if not norms:
            return
        start = [buffer.clone() for norm in norms for buffer in norm.buffers(recurse=False)]
        count, total = 0, 0.0
        for images in batches:
            for statistics in _running(norms):
                statistics.zero_()  # even a whole step away from infinity is not a number
            model(images)
            for values in _of_all_ranks(_moments(norms, pooled), world):
                count, total = count + 1, total + values
    for buffer, value in zip((b for norm in norms for b in norm.buffers(recurse=False)), start, strict=True):
        buffer.copy_(value)
    if not count:
        raise ValueError("statistics are estimated from batches, and there are none")
    _set(norms, total / count, reached, pooled)


def _set(norms: list[nn.Module], moments: Tensor, reached: set[nn.Module], pooled: bool) -> None:
    """Take over the averages of `_moments`, but where a norm was not reached."""
    parts = iter(moments.split([statistics.numel() for statistics in _running(norms)]))
    for norm in norms:
        values = {name: next(parts) for name in _named_running(norm)}
        if pooled and len(values) == 2:
            values["running_var"] = values["running_var"] - values["running_mean"].square()
        for name, statistics in _named_running(norm).items() if norm in reached else ():
            statistics.copy_(values[name].view_as(statistics))


def _moments(norms: list[nn.Module], pooled: bool) -> Tensor:
    """All running statistics, flat, in float64; if `pooled`, with squares of means in the place of variances."""
    moments = []
    for norm in norms:
        values = {name: statistics.double().reshape(-1) for name, statistics in _named_running(norm).items()}
        if pooled and len(values) == 2:
            values["running_var"] = values["running_var"] + values["running_mean"].square()
        moments += values.values()
    return torch.cat(moments)


def _running(norms: list[nn.Module]) -> list[Tensor]:
    return [statistics for norm in norms for statistics in _named_running(norm).values()]


def _named_running(norm: nn.Module) -> dict[str, Tensor]:
    """The running variance, and where the norm has one the running mean before it."""
    return {name: b for name, b in norm.named_buffers(recurse=False) if name.startswith("running_")}


def _of_all_ranks(values: Tensor, world: World) -> list[Tensor]:
    if world.size == 1:
        return [values]
    rows = [torch.empty_like(values) for _ in range(world.size)]
    dist.all_gather(rows, values)
    return rows


@contextlib.contextmanager
def _norms_in_training(model: nn.Module) -> Iterator[list[nn.Module]]:
    """The modules with running statistics that are not frozen, they alone in training."""
    modes = {module: module.training for module in model.modules()}
    model.train()
    norms = [module for module in modes if module.training and _running([module])]
    model.eval()
    for norm in norms:
        norm.training = True
    try:
        yield norms
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextlib.contextmanager
def _moved_whole(norms: list[nn.Module]) -> Iterator[None]:
    """With a momentum of 1 a running statistic is that of the last batch."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@contextlib.contextmanager
def _reached(norms: list[nn.Module]) -> Iterator[set[nn.Module]]:
    """The norms that a forward pass has come to so far."""
    reached: set[nn.Module] = set()
    hooks = [norm.register_forward_hook(lambda norm, *_: reached.add(norm)) for norm in norms]
    try:
        yield reached
    finally:
        for hook in hooks:
            hook.remove()
