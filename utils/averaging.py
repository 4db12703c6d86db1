"""Averages of the weights, evaluated beside them.

A moving one (Polyak and Juditsky 1992) of every step, and the equal one of the ends of epochs: "stochastic weight
averaging" (Izmailov et al. 2018, arXiv 1803.05407).
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from utils.config import ScheduleConfig, TrainingConfig
from utils.errors import UsageError

UNSET = TrainingConfig()
COUNTER = "n_averaged"  # torch.optim.swa_utils has it beside the weights too

# The decay after `step` steps, at most, of --model-ema-warmup: timm's ModelEmaV3, and TensorFlow's moving averages.
WARMUPS: dict[str, Callable[[int], float]] = {
    "off": lambda step: 1.0,
    "power": lambda step: 1 - (1 + step) ** (-2 / 3),
    "ratio": lambda step: (1 + step) / (10 + step),
}


def build_average(model: nn.Module, training: TrainingConfig) -> "WeightAverage | None":
    """What --model-ema asks for."""
    for name in ("model_ema_decay", "model_ema_warmup", "model_ema_buffers"):
        value = getattr(training, name)
        if value != getattr(UNSET, name) and not training.model_ema:
            raise UsageError(f"--{name.replace('_', '-')} {value} has no effect without --model-ema; add it")
    if not training.model_ema:
        return None
    chosen = f"--model-ema-buffers {training.model_ema_buffers}"
    if training.model_ema_buffers != "average" and not any(_is_float(buffer) for buffer in model.buffers()):
        raise UsageError(f"{chosen} has no effect: no norm of this network keeps statistics; leave it out")
    if training.model_ema_buffers == "copy" and training.precise_bn:
        raise UsageError(f"{chosen} has no effect: --precise-bn estimates them; leave it out")
    return WeightAverage(model, training.model_ema_decay, training.model_ema_warmup, training.model_ema_buffers)


class WeightAverage:
    """average <- decay average + (1 - decay) weights, in `self.network`.

    `buffers` says what becomes of running statistics: averaged too, or copied; they are also copied where they are to
    be `reestimated` before each validation.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: str = "off", buffers: str = "average"):
        self.decay, self.most = decay, WARMUPS[warmup]
        self.reestimated = buffers == "reestimate"
        self.network = _frozen_copy(model)
        pairs = list(zip(_tensors(self.network), _tensors(model), strict=True))
        averages = [_is_float(ours) and (buffers == "average" or _is_parameter(ours)) for ours, _ in pairs]
        self.pairs = [pair for pair, averaged in zip(pairs, averages, strict=True) if averaged]
        self.copied = [pair for pair, averaged in zip(pairs, averages, strict=True) if not averaged]

    def restart(self, model: nn.Module) -> None:
        """Begin from the weights as they are."""
        self.network.load_state_dict(model.state_dict())

    @torch.no_grad()
    def update(self, step: int, finite: Tensor) -> None:
        """Move by one step, the first being 0, where `finite` is true, stay where it is not."""
        weight = (1 - min(self.decay, self.most(step))) * finite
        for ours, theirs in self.pairs:
            ours.lerp_(theirs, weight.to(ours.dtype))
        for ours, theirs in self.copied:
            ours.copy_(theirs)  # of a step that is not finite nothing is left in them


def build_equal_average(model: nn.Module, schedule: ScheduleConfig) -> "EqualAverage | None":
    """What --swa asks for."""
    return None if schedule.swa is None else EqualAverage(model)


class EqualAverage:
    """The mean of the weights at the moments of `add`, each weighing the same, in `self.network`.

    Its running statistics are those of the last moment, which are of no use to the mean: estimate them anew.
    """

    def __init__(self, model: nn.Module):
        self.count = 0
        self.network = _frozen_copy(model)
        self.pairs = list(zip(self.network.parameters(), model.parameters(), strict=True))
        self.copied = list(zip(self.network.buffers(), model.buffers(), strict=True))

    @torch.no_grad()
    def add(self) -> None:
        """Take in the weights as they are."""
        self.count += 1
        for ours, theirs in self.pairs:
            ours.lerp_(theirs, 1 / self.count)
        for ours, theirs in self.copied:
            ours.copy_(theirs)

    def state_dict(self) -> dict[str, Tensor]:
        return {**self.network.state_dict(), COUNTER: torch.tensor(self.count)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.network.load_state_dict({name: value for name, value in state.items() if name != COUNTER})
        self.count = int(state[COUNTER])


def _frozen_copy(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).requires_grad_(False).eval()


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _is_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point()


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter)
