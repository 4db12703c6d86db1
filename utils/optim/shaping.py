"""What is done to gradients right before the step, after clipping: e-shifted L2, and gradient centralization."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from utils.config import OptimConfig
from utils.errors import UsageError
from utils.optim.guarding import Around, Steps
from utils.optim.kinds import Kinds, is_filter, kinds_of

EPS, STRENGTH = 1e-3, 1e-4  # of PytorchInsight's imagenet_fast.py, seeds.md 4.6

# A change of the gradient of a weight that has this weight decay in its gradient.
Shape = Callable[[Tensor, Tensor, float], None]


class Shaped(Around):
    """Changes gradients, then steps. `shapes`: (parameter, change) in the order in which they are done.

    `coupled`: the inner one adds weight decay to the gradient.
    """

    def __init__(self, inner: Steps, shapes: list[tuple[Tensor, Shape]], coupled: bool):
        super().__init__(inner)
        decays = {p: group["weight_decay"] for group in inner.param_groups for p in group["params"]}
        self.shapes = [(weight, shape, decays[weight] * coupled) for weight, shape in shapes]

    @torch.no_grad()
    def step(self) -> None:
        for weight, shape, decay in self.shapes:
            if weight.grad is not None:
                shape(weight, weight.grad, decay)
        self.step_inside()


def shifted_decay(eps: float, strength: float) -> Shape:
    """e-shifted L2 of PytorchInsight (seeds.md 4.6): the gradient of the sum over filters of
    strength ((n - 1) / 2 (s - eps)^2 + n / 2 m^2), with m and s the mean and sample deviation of its n weights. A
    filter of equal weights has no direction to spread in: only its mean is pulled.
    """

    def add(weight: Tensor, gradient: Tensor, decay: float) -> None:
        deviation, mean = torch.std_mean(weight.flatten(1), dim=1)
        deviation, mean = (t.view(-1, *[1] * (weight.ndim - 1)) for t in (deviation, mean))
        pull = torch.where(deviation > 0, 1 - eps / deviation, 0)
        gradient.add_(pull * (weight - mean) + mean, alpha=strength)

    return add


def centralize(weight: Tensor, gradient: Tensor, decay: float) -> None:
    """Gradient centralization (Yong et al. 2020, arXiv 2004.01461): g + decay w, where the optimizer will add the
    second, without its mean over all dimensions but the first."""
    sides = tuple(range(1, weight.ndim))
    gradient.sub_((gradient + decay * weight).mean(sides, keepdim=True))


def shapes(parameters: list[Tensor], config: OptimConfig, kinds: Kinds) -> list[tuple[Tensor, Shape]]:
    """What --el2 and --gradient-centralization do to which parameters. UsageError if it is nothing."""
    found: list[tuple[Tensor, Shape]] = []
    if config.el2:
        add = shifted_decay(_given(config.el2_eps, EPS), _given(config.el2_lambda, STRENGTH))
        found += [(weight, add) for weight in parameters if is_filter(weight, kinds)]
        if not found:
            raise UsageError("--el2 has no effect: the network has no filters but depthwise ones; leave it out")
    if config.gradient_centralization != "off":
        only = {"conv"} if config.gradient_centralization == "conv" else {"conv", "fc"}
        chosen = [w for w in parameters if w.ndim > 1 and w[0].numel() > 1 and kinds_of(w, kinds) & only]
        if not chosen:
            told = f"--gradient-centralization {config.gradient_centralization}"
            raise UsageError(f"{told} has no effect: the network has no such weights; leave it out")
        found += [(weight, centralize) for weight in chosen]
    return found


def _given(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def refuse_without_el2(config: OptimConfig) -> None:
    """UsageError for a setting of --el2 without it."""
    for flag, value in (("--el2-eps", config.el2_eps), ("--el2-lambda", config.el2_lambda)):
        if value is not None and not config.el2:
            raise UsageError(f"{flag} {value:g} has no effect without --el2; add it")


def el2_told(model: nn.Module, kinds: Kinds) -> str:
    """One line: what --el2 holds, and what of the weights it leaves to weight decay."""
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    held = sum(is_filter(p, kinds) for p in weights)
    names = ("depthwise", "attention", "fc")
    left = {name: sum(name in kinds_of(p, kinds) and not is_filter(p, kinds) for p in weights) for name in names}
    told = ", ".join(f"{number} {name}" for name, number in left.items() if number) or "none"
    return f"el2        on {held} convolutions; skipped, with weight decay as before: {told}"
