"""Sharpness-aware minimization: steps by the gradient at the worst weights near by (Foret et al. 2021, 2010.01412)."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

SMALLEST = 1e-12  # the authors' code: where the gradient is zero, weights stay


class Sharpness:
    """`worst`: the weights moved by `radius` along their gradient, of the global batch, while its context lasts."""

    def __init__(self, parameters: list[Tensor], radius: float):
        self.parameters, self.radius = parameters, radius

    @contextlib.contextmanager
    def worst(self) -> Iterator[None]:
        """w + radius g / |g|, afterwards the very bits of w. Any loss scale in the gradients cancels; one that is not
        finite makes the gradients in here so."""
        moved = [p for p in self.parameters if p.grad is not None]
        gradients = [p.grad for p in moved]
        with torch.no_grad():
            norm = torch.nn.utils.get_total_norm(gradients)
            before = [weight.detach().clone() for weight in moved]
            torch._foreach_add_(moved, torch._foreach_mul(gradients, self.radius / (norm + SMALLEST)))
        yield
        with torch.no_grad():
            torch._foreach_copy_(moved, before)
