"""Which parameters decay: groups by what a parameter is, never by its name.

Gains and biases are stored with one dimension, weights with two or more, in every network of the zoo.
"""

from collections.abc import Iterable

from torch import Tensor, nn

from utils.config import OptimConfig
from utils.errors import UsageError
from utils.optim.kinds import Kinds, is_filter, kinds_of

Group = dict[str, list[Tensor] | float]


def parameter_groups(
    model: nn.Module, gains: Iterable[nn.Parameter], optim: OptimConfig, kinds: Kinds | None = None
) -> list[Group]:
    """Groups for the optimizer: weights, biases and norms, and `gains`, the alphas of PWS; empty ones are left out."""
    alphas, kinds = [gain for gain in gains if gain.requires_grad], kinds or {}
    if optim.alpha_wd and not alphas:
        raise UsageError(f"--alpha-wd {optim.alpha_wd:g} has no effect: the network trains no pws gains; leave it out")
    known = {id(alpha) for alpha in alphas}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    skipped = _skipped(others, optim, kinds)
    weights = [p for p in others if p.ndim > 1 and p not in skipped]
    flat = [p for p in others if p.ndim <= 1 and p not in skipped]
    groups: list[Group] = [
        {"params": weights, "weight_decay": optim.weight_decay},
        {"params": flat, "weight_decay": 0.0 if optim.no_wd_bias else optim.weight_decay},
        {"params": [p for p in others if p in skipped], "weight_decay": 0.0},
        {"params": alphas, "weight_decay": optim.alpha_wd},
    ]
    return [group for group in groups if group["params"]]


def _skipped(parameters: list[Tensor], optim: OptimConfig, kinds: Kinds) -> set[Tensor]:
    """What --wd-skip names, and the filters that --el2 takes over. UsageError for a kind that changes nothing."""
    found = {p for p in parameters if is_filter(p, kinds)} if optim.el2 else set()
    for kind in optim.wd_skip:
        if not optim.weight_decay:
            raise UsageError(f"--wd-skip {kind} has no effect with --weight-decay 0; leave it out")
        meant = {p for p in parameters if kind in kinds_of(p, kinds)}
        if optim.no_wd_bias:
            meant = {p for p in meant if p.ndim > 1}
        if not meant - found:
            other = " beside --no-wd-bias, --el2 or what it skips already" if optim.no_wd_bias or found else ""
            raise UsageError(f"--wd-skip {kind} has no effect on this network{other}; leave it out")
        found |= meant
    return found
