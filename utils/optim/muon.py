"""Muon for what is a matrix, AdamW for the rest, as one optimizer (Jordan et al. 2024; Liu et al. 2025, 2502.16982).

Muon is torch's. Matrices are weights with two dimensions, and filters of convolutions flattened to (outputs, inputs x
height x width); not the classifier, nor depthwise filters, in which no channel meets another, nor gains and biases:
these move by AdamW. Updates of a matrix are scaled by 0.2 sqrt(larger side), which gives them AdamW's root mean square,
so that one learning rate and one weight decay serve both.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from utils.optim.guarding import Facts

ADAMW = {"betas": (0.9, 0.999), "eps": 1e-8}


def flattened(tensor: Tensor) -> Tensor:
    """(outputs, all else), in the order in which it lies in memory: a view of a weight."""
    if tensor.ndim == 4 and not tensor.is_contiguous():
        tensor = tensor.permute(0, 2, 3, 1)  # channels_last
    return tensor.reshape(len(tensor), -1)


class MuonWithAdamW:
    """`matrices`: the parameters that Muon moves."""

    def __init__(self, groups: list[Facts], matrices: set[Tensor], settings: Mapping[str, float], adamw: Facts):
        self.param_groups = [{"lr": 0.0, **group} for group in groups]
        self.found_inf = None
        self.views = {p: flattened(p.detach()) for group in groups for p in group["params"] if p in matrices}
        for weight, view in self.views.items():
            if view.data_ptr() != weight.data_ptr():
                raise AssertionError("a weight that cannot be seen as a matrix in place")
        flat, rest = [], []
        for number, group in enumerate(self.param_groups):
            own = {"weight_decay": group["weight_decay"], "number": number}
            flat.append({"params": [self.views[p] for p in group["params"] if p in self.views], **own})
            rest.append({"params": [p for p in group["params"] if p not in self.views], **own})
        flat, rest = ([group for group in kind if group["params"]] for kind in (flat, rest))
        self.muon = torch.optim.Muon(flat, lr=0.0, adjust_lr_fn="match_rms_adamw", **settings)
        self.adamw = torch.optim.AdamW(rest, lr=0.0, fused=True, **adamw) if rest else None
        self.both = [self.muon, self.adamw] if rest else [self.muon]

    @property
    def state(self) -> dict[Tensor, Facts]:
        """What both remember."""
        return {weight: memory for one in self.both for weight, memory in one.state.items()}

    def step(self) -> None:
        for weight, view in self.views.items():
            view.grad = None if weight.grad is None else self._laid(weight)
        for one in self.both:
            for group in one.param_groups:
                group["lr"] = self.param_groups[group["number"]]["lr"]
            one.step()

    def _laid(self, weight: Tensor) -> Tensor:
        """The gradient, flattened in the order of the weight, which DDP's need not have."""
        if weight.grad.stride() == weight.stride():
            return flattened(weight.grad)
        return flattened(torch.empty_like(weight).copy_(weight.grad))

    def state_dict(self) -> Facts:
        return {name: one.state_dict() for name, one in zip(("muon", "adamw"), self.both, strict=False)}

    def load_state_dict(self, state: Facts) -> None:
        for name, one in zip(("muon", "adamw"), self.both, strict=False):
            one.load_state_dict(state[name])
