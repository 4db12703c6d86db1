"""Steps that the device itself can take back: what torch's fused optimizers do in their kernels, around any other.

A step whose gradient is not finite must leave no trace in weights or memory, and the host must not ask which it was.
"""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

Facts = dict[str, object]


class Steps(Protocol):
    """What the training loop needs of an optimizer; torch's are such."""

    param_groups: list[Facts]
    found_inf: Tensor | None

    def step(self) -> object: ...

    def state_dict(self) -> Facts: ...

    def load_state_dict(self, state: Facts) -> object: ...


class Around:
    """An optimizer around another, whose groups are its groups. `found_inf`: 1.0 where the step is not to be taken."""

    def __init__(self, inner: Steps):
        self.inner, self.found_inf = inner, None

    @property
    def param_groups(self) -> list[Facts]:
        return self.inner.param_groups

    def moving(self) -> list[Tensor]:
        """The parameters that have a gradient."""
        return [p for group in self.param_groups for p in group["params"] if p.grad is not None]

    def step_inside(self) -> None:
        """One step of the inner one, which is told of `found_inf`."""
        self.inner.found_inf = self.found_inf
        self.inner.step()

    def state_dict(self) -> Facts:
        return self.inner.state_dict()

    def load_state_dict(self, state: Facts) -> None:
        self.inner.load_state_dict(state)


class Guarded(Around):
    """Around an optimizer that always steps: puts weights and memory back where the step was not to be taken.

    Memory that a step made goes to zero, where that of all optimizers starts. Costs a copy of weights and memory.
    """

    @torch.no_grad()
    def step(self) -> None:
        if self.found_inf is None:
            self.inner.step()
            return
        before = {key: tensor.clone() for key, tensor in self._touched()}
        self.inner.step()
        finite = self.found_inf == 0
        for key, after in self._touched():
            zero = torch.zeros((), dtype=after.dtype, device=after.device)
            after.copy_(torch.where(finite, after, before.get(key, zero)))

    def _touched(self) -> Iterator[tuple[object, Tensor]]:
        """All that a step may write to, under a name that lasts."""
        for parameter in self.moving():
            yield id(parameter), parameter
        for parameter, memory in self.inner.state.items():
            yield from (((id(parameter), name), m) for name, m in memory.items() if isinstance(m, Tensor))
        for number, group in enumerate(self.param_groups):  # NVIDIA's count their steps here
            yield from (((number, name), m) for name, m in group.items() if name == "step" and isinstance(m, Tensor))

    def load_state_dict(self, state: Facts) -> None:
        super().load_state_dict(state)
        for group in self.param_groups:
            device = group["params"][0].device
            group |= {name: value.to(device) for name, value in group.items() if isinstance(value, Tensor)}
