"""Optimizers that torch does not have, each a few operations over lists of tensors.

They step always; `utils.optim.guarding.Guarded` takes back the steps that are not to be taken. Counts of steps are
tensors, so that taking back does not ask the device.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

Memory = dict[str, list[Tensor]]
Settings = dict[str, float | tuple[float, ...]]


class ListOptimizer(torch.optim.Optimizer):
    """An optimizer whose `move` gets all parameters of a group that have a gradient, at once.

    `memory`: the tensors that it keeps for each parameter, which start at zero. `counts`: also the steps, one number.
    """

    memory: tuple[str, ...] = ()
    counts = False

    def __init__(self, groups: Iterable[dict], settings: Settings):
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, **settings})
        for parameter in (p for group in self.param_groups for p in group["params"]):
            slots = {name: torch.zeros_like(parameter) for name in self.memory}
            count = {"count": torch.zeros((), dtype=parameter.dtype, device=parameter.device)} if self.counts else {}
            self.state[parameter] = slots | count

    @torch.no_grad()
    def step(self) -> None:
        for group, moving in moving_groups(self):
            names = (*self.memory, "count") if self.counts else self.memory
            memory = {name: [self.state[p][name] for p in moving] for name in names}
            if self.counts:
                torch._foreach_add_(memory["count"], 1)
            self.move(moving, [p.grad for p in moving], memory, group)

    def move(self, weights: list[Tensor], gradients: list[Tensor], memory: Memory, group: dict) -> None:
        raise NotImplementedError


def moving_groups(optimizer: torch.optim.Optimizer) -> Iterator[tuple[dict, list[Tensor]]]:
    """Its groups, each with those of its parameters that have a gradient, where there are some."""
    for group in optimizer.param_groups:
        moving = [p for p in group["params"] if p.grad is not None]
        if moving:
            yield group, moving


def unbiased(averages: list[Tensor], beta: float, counts: list[Tensor]) -> list[Tensor]:
    """Averages that started at zero, after so many steps: over 1 - beta^count."""
    shares = torch._foreach_pow(beta, counts)
    torch._foreach_neg_(shares)
    torch._foreach_add_(shares, 1)
    return torch._foreach_div(averages, shares)


def follow_square(mean: list[Tensor], values: list[Tensor], beta: float) -> None:
    """mean <- beta mean + (1 - beta) values^2."""
    torch._foreach_mul_(mean, beta)
    torch._foreach_addcmul_(mean, values, values, 1 - beta)


class Lion(ListOptimizer):
    """The sign of an interpolated momentum (Chen et al. 2023, arXiv 2302.06675).

    w <- w - lr (sign(b1 m + (1 - b1) g) + wd w), then m <- b2 m + (1 - b2) g.
    """

    memory = ("exp_avg",)

    def move(self, weights: list[Tensor], gradients: list[Tensor], memory: Memory, group: dict) -> None:
        interpolated, following = group["betas"]
        moves = torch._foreach_lerp(memory["exp_avg"], gradients, 1 - interpolated)
        torch._foreach_sign_(moves)
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(weights, moves, alpha=-group["lr"])
        torch._foreach_lerp_(memory["exp_avg"], gradients, 1 - following)


class Adan(ListOptimizer):
    """Nesterov momentum in an adaptive step (Xie et al. 2022, arXiv 2208.06677, algorithm 1).

    With d = g - g_before (zero in the first step), and betas the shares that are kept, 1 minus the paper's:
    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) d;  n <- b3 n + (1 - b3) (g + b2 d)^2;
    w <- (w - lr (m + b2 v) / (sqrt(n) + eps)) / (1 + lr wd). Averages start at zero and are unbiased as Adam's, as in
    the authors' code, where the paper starts m and n at the first gradient.
    """

    memory = ("exp_avg", "exp_avg_diff", "exp_avg_sq", "before")
    counts = True

    def move(self, weights: list[Tensor], gradients: list[Tensor], memory: Memory, group: dict) -> None:
        beta1, beta2, beta3 = group["betas"]
        counts, before = memory["count"], memory["before"]
        changes = torch._foreach_sub(gradients, before)
        torch._foreach_mul_(changes, [(count > 1).to(count.dtype) for count in counts])
        torch._foreach_lerp_(memory["exp_avg"], gradients, 1 - beta1)
        torch._foreach_lerp_(memory["exp_avg_diff"], changes, 1 - beta2)
        follow_square(memory["exp_avg_sq"], torch._foreach_add(gradients, changes, alpha=beta2), beta3)
        torch._foreach_copy_(before, gradients)
        moves = unbiased(memory["exp_avg"], beta1, counts)
        torch._foreach_add_(moves, unbiased(memory["exp_avg_diff"], beta2, counts), alpha=beta2)
        below = torch._foreach_sqrt(unbiased(memory["exp_avg_sq"], beta3, counts))
        torch._foreach_add_(below, group["eps"])
        torch._foreach_addcdiv_(weights, moves, below, -group["lr"])
        torch._foreach_div_(weights, 1 + group["lr"] * group["weight_decay"])


class RMSpropTF(ListOptimizer):
    """RMSprop as TensorFlow 1 has it, by which MobileNets and EfficientNets were trained.

    Other than torch's: eps is inside the root, mean squares start at one, and the momentum holds the learning rate:
    g <- g + wd w;  s <- a s + (1 - a) g^2;  b <- m b + lr g / sqrt(s + eps);  w <- w - b.
    """

    memory = ("square_avg", "momentum_buffer")

    def __init__(self, groups: Iterable[dict], settings: Settings):
        super().__init__(groups, settings)
        for memory in self.state.values():
            memory["square_avg"].fill_(1)

    def move(self, weights: list[Tensor], gradients: list[Tensor], memory: Memory, group: dict) -> None:
        slopes = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
        follow_square(memory["square_avg"], slopes, group["alpha"])
        below = torch._foreach_add(memory["square_avg"], group["eps"])
        torch._foreach_sqrt_(below)
        torch._foreach_mul_(memory["momentum_buffer"], group["momentum"])
        torch._foreach_addcdiv_(memory["momentum_buffer"], slopes, below, group["lr"])
        torch._foreach_sub_(weights, memory["momentum_buffer"])
