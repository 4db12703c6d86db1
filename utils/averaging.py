"""An exponential moving average of the weights, evaluated beside them (Polyak and Juditsky 1992)."""

import copy

import torch
from torch import Tensor, nn

from utils.config import TrainingConfig
from utils.errors import UsageError


def build_average(model: nn.Module, training: TrainingConfig) -> "WeightAverage | None":
    """What --model-ema asks for."""
    if training.model_ema:
        return WeightAverage(model, training.model_ema_decay)
    if training.model_ema_decay != TrainingConfig().model_ema_decay:
        raise UsageError(f"--model-ema-decay {training.model_ema_decay:g} has no effect without --model-ema; add it")
    return None


class WeightAverage:
    """average <- decay average + (1 - decay) weights, for parameters and running statistics, in `self.network`."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.network = copy.deepcopy(model).requires_grad_(False).eval()
        self.pairs = list(zip(_floats(self.network), _floats(model), strict=True))
        self.counters = list(zip(_counters(self.network), _counters(model), strict=True))

    def restart(self, model: nn.Module) -> None:
        """Begin from the weights as they are."""
        self.network.load_state_dict(model.state_dict())

    @torch.no_grad()
    def update(self, finite: Tensor) -> None:
        """Move by one step where `finite` is true, stay where it is not."""
        weight = (1 - self.decay) * finite
        for ours, theirs in self.pairs:
            ours.lerp_(theirs, weight.to(ours.dtype))
        for ours, theirs in self.counters:
            ours.copy_(theirs)


def _floats(model: nn.Module) -> list[Tensor]:
    return [t for t in [*model.parameters(), *model.buffers()] if t.is_floating_point()]


def _counters(model: nn.Module) -> list[Tensor]:
    return [t for t in model.buffers() if not t.is_floating_point()]
