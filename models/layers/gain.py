"""The gains of PWS convolutions: which they are, and how they start from data.

A gain that starts from data is set once, before the network is replicated, on a batch that every rank shares. It never
happens inside `forward`: there each rank would find another value.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models.layers.convolution import PWSConv2d
from models.layers.dropping import DROPPING
from models.layers.fused_convolution import FusedConvolution
from utils.errors import NumericsError

OUTPUT_VARIANCE = 2.0  # of a convolution before ReLU, so that the second moment after it is 1 (seeds.md 2.1)


def gain_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The alphas of the PWS convolutions, which have a weight decay of their own."""
    return [conv.alpha for conv in model.modules() if isinstance(conv, PWSConv2d)]


def wants_data_gains(model: nn.Module) -> bool:
    """Whether `set_data_gains` has a convolution to work on."""
    return bool(_from_data(model))


def _from_data(model: nn.Module) -> dict[str, PWSConv2d]:
    convs = {name: conv for name, conv in model.named_modules() if isinstance(conv, PWSConv2d)}
    return {name: conv for name, conv in convs.items() if conv.gain_from_data}


@torch.no_grad()
def set_data_gains(model: nn.Module, images: Tensor) -> None:
    """Set the gains that start from data, such that each such convolution has outputs of variance 2 on `images`.

    images: (n, 3, h, w), normalized. One forward pass in training mode, but with nothing dropped, and in the
    parameters' own precision; in the order of execution, each flagged convolution's alpha becomes sqrt(2 / v), v the
    sample variance of all its outputs, and the pass goes on with the new outputs. That is the ancestor's formula, in
    which v counts the gain before: it is meant for gains of one, so once. Nothing else is changed: modes, running
    statistics and random generators are put back. NumericsError if some v is zero or not finite.
    """
    hooks = [conv.register_forward_hook(_setter(name)) for name, conv in _from_data(model).items()]
    try:
        with _unchanged(model, images.device), torch.autocast(images.device.type, enabled=False):
            model.train()
            for module in (module for module in model.modules() if isinstance(module, DROPPING)):
                module.eval()
            model(images.to(next(model.parameters()).dtype))
    finally:
        for hook in hooks:
            hook.remove()


def _setter(name: str) -> Callable[[PWSConv2d, tuple[Tensor], Tensor], Tensor]:
    def set_gain(conv: PWSConv2d, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        variance = conv.linear(inputs[0]).var().item() if isinstance(conv, FusedConvolution) else output.var().item()
        if not 0 < variance < float("inf"):
            raise NumericsError(f"{name}: its output on the first batch has variance {variance}; that gives no gain")
        conv.alpha.fill_((OUTPUT_VARIANCE / variance) ** 0.5)
        return conv.forward(*inputs)

    return set_gain


@contextmanager
def _unchanged(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put back, on leaving, what a forward pass in training mode changes: modes, buffers, random generators."""
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training
            for buffer, before in buffers:
                buffer.copy_(before)
