"""Which parameters decay: groups by what a parameter is, never by its name.

Gains and biases are stored with one dimension, weights with two or more, in every network of the zoo.
"""

from collections.abc import Iterable

from torch import Tensor, nn

from utils.config import OptimConfig
from utils.errors import UsageError

Group = dict[str, list[Tensor] | float]


def parameter_groups(model: nn.Module, gains: Iterable[nn.Parameter], optim: OptimConfig) -> list[Group]:
    """Groups for the optimizer: weights, biases and norms, and `gains`, the alphas of PWS; empty ones are left out."""
    alphas = [gain for gain in gains if gain.requires_grad]
    if optim.alpha_wd and not alphas:
        raise UsageError(f"--alpha-wd {optim.alpha_wd:g} has no effect: the network trains no pws gains; leave it out")
    known = {id(alpha) for alpha in alphas}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    flat_decay = 0.0 if optim.no_wd_bias else optim.weight_decay
    groups: list[Group] = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": optim.weight_decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": flat_decay},
        {"params": alphas, "weight_decay": optim.alpha_wd},
    ]
    return [group for group in groups if group["params"]]
