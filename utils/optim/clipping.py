"""Gradients kept within bounds before a step: by norm, by value, or unit by unit."""

from collections.abc import Callable

import torch
from torch import Tensor

from utils.config import OptimConfig
from utils.errors import UsageError
from utils.optim.kinds import Kinds, kinds_of

LEAST_NORM = 1e-3  # of a unit's weights, so that those that start at zero can move: the paper's epsilon


def build_clipping(parameters: list[Tensor], config: OptimConfig, kinds: Kinds) -> Callable[[Tensor], None] | None:
    """What --clip-grad asks for: a function of the gradient's norm that changes the gradients."""
    if config.clip_grad is None:
        if config.clip_mode != "norm":
            raise UsageError(f"--clip-mode {config.clip_mode} has no effect without --clip-grad; add it")
        return None
    limit = config.clip_grad
    if config.clip_mode == "norm":
        return lambda norm: torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    if config.clip_mode == "value":
        return lambda norm: torch.nn.utils.clip_grad_value_(parameters, limit)
    bounded = [parameter for parameter in parameters if "head" not in kinds_of(parameter, kinds)]
    return lambda norm: clip_units([p for p in bounded if p.grad is not None], limit)


@torch.no_grad()
def clip_units(parameters: list[Tensor], limit: float) -> None:
    """Adaptive gradient clipping (Brock et al. 2021, arXiv 2102.06171): no unit's gradient is longer than `limit` times
    its weights. A unit is a filter or a row, or a parameter with one dimension. The paper leaves out the classifier.
    """
    for parameter in parameters:
        of_weights = unit_norms(parameter).clamp_(min=LEAST_NORM)
        of_gradients = unit_norms(parameter.grad)
        too_long = of_gradients > limit * of_weights
        scale = torch.where(too_long, limit * of_weights / of_gradients, torch.ones_like(of_weights))
        parameter.grad.mul_(scale)


def unit_norms(tensor: Tensor) -> Tensor:
    """L2 norms in shape (units, 1, ...), or a single one."""
    if tensor.ndim <= 1:
        return torch.linalg.vector_norm(tensor)
    return torch.linalg.vector_norm(tensor, dim=tuple(range(1, tensor.ndim)), keepdim=True)
