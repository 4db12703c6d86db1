"""Steps in proportion to the norm of each layer's weights, for large batches: LARS and LAMB.

A tensor of zeros, or without gradient, has no direction to compare: its ratio is one.
"""

import torch
from torch import Tensor

from utils.optim.listwise import ListOptimizer, Memory, follow_square, unbiased


def norms(tensors: list[Tensor]) -> Tensor:
    """(n,): the L2 norm of each."""
    return torch.stack(torch._foreach_norm(tensors))


class LARS(ListOptimizer):
    """Layer-wise adaptive rate scaling of SGD (You et al. 2017, arXiv 1708.03888, algorithm 1).

    r = trust |w| / (|g| + wd |w|);  b <- m b + lr r (g + wd w);  w <- w - b. Parameters with one dimension, which are
    biases and gains, have r = 1, as in the large-batch results that followed the paper.
    """

    memory = ("momentum_buffer",)

    def move(self, weights: list[Tensor], gradients: list[Tensor], memory: Memory, group: dict) -> None:
        decay = group["weight_decay"]
        of_weights, of_gradients = norms(weights), norms(gradients)
        has_both = (of_weights > 0) & (of_gradients > 0)
        ratio = group["trust_coefficient"] * of_weights / (of_gradients + decay * of_weights)
        ratio = torch.where(has_both, ratio, torch.ones_like(ratio)).unbind()
        ratios = [r if weight.ndim > 1 else torch.ones_like(r) for r, weight in zip(ratio, weights, strict=True)]
        slopes = torch._foreach_add(gradients, weights, alpha=decay)
        torch._foreach_mul_(slopes, ratios)
        torch._foreach_mul_(memory["momentum_buffer"], group["momentum"])
        torch._foreach_add_(memory["momentum_buffer"], slopes, alpha=group["lr"])
        torch._foreach_sub_(weights, memory["momentum_buffer"])


class LAMB(ListOptimizer):
    """The same of Adam (You et al. 2020, arXiv 1904.00962, algorithm 2, with phi the identity).

    u = m / (sqrt(v) + eps) + wd w, m and v Adam's unbiased averages;  w <- w - lr |w| / |u| u.
    """

    memory = ("exp_avg", "exp_avg_sq")
    counts = True

    def move(self, weights: list[Tensor], gradients: list[Tensor], memory: Memory, group: dict) -> None:
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(memory["exp_avg"], gradients, 1 - beta1)
        follow_square(memory["exp_avg_sq"], gradients, beta2)
        moves = unbiased(memory["exp_avg"], beta1, memory["count"])
        below = torch._foreach_sqrt(unbiased(memory["exp_avg_sq"], beta2, memory["count"]))
        torch._foreach_add_(below, group["eps"])
        torch._foreach_div_(moves, below)
        torch._foreach_add_(moves, weights, alpha=group["weight_decay"])
        of_weights, of_moves = norms(weights), norms(moves)
        has_both = (of_weights > 0) & (of_moves > 0)
        ratios = torch.where(has_both, of_weights / of_moves, torch.ones_like(of_moves))
        torch._foreach_mul_(moves, list(ratios.unbind()))
        torch._foreach_add_(weights, moves, alpha=-group["lr"])
