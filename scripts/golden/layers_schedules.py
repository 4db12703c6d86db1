"""Golden learning rates of the ancestors: their functions -> settings of ours, and the rate of every step."""

from collections.abc import Callable, Mapping

import numpy as np
import torch

from scripts.golden.comparing import NotOursYet
from scripts.golden.layer import Meta, Outputs
from utils.config import ScheduleConfig
from utils.schedule import build_schedule

STEPS = 3  # in an epoch of a schedule that is held through it: any number


def _rates(config: ScheduleConfig, peak: float, steps_per_epoch: int) -> torch.Tensor:
    """(epochs, steps) of the learning rates of a run."""
    rate = build_schedule(config, peak, steps_per_epoch)
    found = [rate(step) for step in range(config.epochs * steps_per_epoch)]
    return torch.tensor(found, dtype=torch.float64).reshape(config.epochs, steps_per_epoch)


def _held(config: ScheduleConfig, peak: float) -> torch.Tensor:
    """(epochs,) of a schedule that is held through epochs. NotOursYet if it is not."""
    found = _rates(config, peak, STEPS)
    if not torch.equal(found, found[:, :1].expand_as(found)):
        raise NotOursYet("a rate changes inside an epoch")
    return found[:, 0]


def model_zoo(meta: Meta) -> Outputs:
    """ModelZoo.pytorch's `CosineWarmupLr`, a rate a step; it never uses its own `warmup_lr`."""
    given = meta["args"]
    config = ScheduleConfig(
        epochs=given["epochs"], warmup_epochs=float(given["warmup_epochs"]), min_lr=float(given["target_lr"])
    )
    return {"out.lr_used_at_iteration": _rates(config, given["base_lr"], given["batches"])}


def insight_mobile(meta: Meta) -> Outputs:
    """PytorchInsight's mobile trainer, a rate a step."""
    config = ScheduleConfig(epochs=meta["T_max"], warmup_epochs=float(meta["warmup"]), min_lr=meta["eta_min"])
    return {"out.lr_epoch_by_iter": _rates(config, meta["base_lr"], meta["N_batch"])}


def insight_fast(meta: Meta) -> Outputs:
    """PytorchInsight's fast trainer, a rate an epoch: its cosine is counted from the start of the run."""
    given = meta["args"]
    common = {"epochs": given["epochs"], "warmup_epochs": float(given["warmup"]), "sched_per_epoch": True}
    cosine = ScheduleConfig(**common, decay_from="start")
    steps = ScheduleConfig(**common, sched="step", milestones=tuple(given["schedule"]), gamma=given["gamma"])
    return {"out.lr_cos": _held(cosine, given["lr"]), "out.lr_step": _held(steps, given["lr"])}


SCHEDULE_TABLES: dict[str, Callable[[Meta, Mapping[str, np.ndarray]], Outputs]] = {
    "torchtoolbox.optimizer.CosineWarmupLr": lambda meta, arrays: model_zoo(meta),
    "imagenet_mobile.CosineAnnealingLR": lambda meta, arrays: insight_mobile(meta),
    "imagenet_fast.adjust_learning_rate": lambda meta, arrays: insight_fast(meta),
}
