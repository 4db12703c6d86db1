"""The learning rate as a function of the step: nothing to save, nothing to step, nothing to forget on resume.

Step s counts from 0 and takes the value at s + 1 of the continuous curves, as ModelZoo.pytorch's CosineWarmupLr and
PytorchInsight's mobile trainer do: the first step's rate is not zero, the last step's of a cosine is --min-lr.
"""

import math
from collections.abc import Callable

from utils.config import OptimConfig, ScheduleConfig
from utils.errors import UsageError

UNSET = ScheduleConfig()
BASE_BATCH = 256  # images per --lr-base (Goyal et al. 2017, arXiv 1706.02677)


def peak_rate(optim: OptimConfig, global_batch: int) -> float:
    """The learning rate at the global batch: --lr, or --lr-base per 256 images."""
    if optim.lr is not None and optim.lr_base is not None:
        raise UsageError(f"--lr {optim.lr} and --lr-base {optim.lr_base} exclude each other; give one")
    if optim.lr is not None:
        return optim.lr
    return (0.1 if optim.lr_base is None else optim.lr_base) * global_batch / BASE_BATCH


def build_schedule(config: ScheduleConfig, peak: float, steps_per_epoch: int) -> Callable[[int], float]:
    """A function from the step to its learning rate, for a run of config.epochs."""
    _check(config)
    decay = {"cosine": _cosine, "step": _milestones}[config.sched]

    def rate(step: int) -> float:
        epoch = step // steps_per_epoch
        now = float(epoch) if config.sched_per_epoch else (step + 1) / steps_per_epoch  # epochs
        warmed = (epoch + 1 if config.sched_per_epoch else now) / config.warmup_epochs if config.warmup_epochs else 1.0
        if epoch < config.warmup_epochs and warmed < 1:
            return config.warmup_lr + (peak - config.warmup_lr) * warmed
        if epoch < config.warmup_epochs and config.sched_per_epoch:
            return peak
        return decay(config, peak, now, epoch)

    return rate


def _cosine(config: ScheduleConfig, peak: float, now: float, epoch: int) -> float:
    start = config.warmup_epochs if config.decay_from == "warmup" else 0.0
    share = (now - start) / (config.epochs - start)
    return config.min_lr + (peak - config.min_lr) * (1 + math.cos(math.pi * share)) / 2


def _milestones(config: ScheduleConfig, peak: float, now: float, epoch: int) -> float:
    return peak * config.gamma ** sum(epoch >= milestone for milestone in config.milestones)


def _check(config: ScheduleConfig) -> None:
    if config.warmup_epochs >= config.epochs and config.warmup_epochs:
        raise UsageError(
            f"--warmup-epochs {config.warmup_epochs:g} leaves nothing of --epochs {config.epochs}; make it smaller"
        )
    if config.warmup_lr and not config.warmup_epochs:
        raise UsageError(f"--warmup-lr {config.warmup_lr:g} has no effect without --warmup-epochs; leave it out")
    if config.sched != "step" and (config.milestones, config.gamma) != (UNSET.milestones, UNSET.gamma):
        raise UsageError(f"--milestones and --gamma belong to --sched step, not {config.sched}; leave them out")
    if config.sched == "cosine" and config.decay_from == "start" and config.warmup_epochs == 0:
        raise UsageError("--decay-from start changes nothing without a warm-up; leave it out")
    if config.sched != "cosine" and (config.min_lr or config.decay_from != "warmup"):
        raise UsageError("--min-lr and --decay-from belong to --sched cosine")
