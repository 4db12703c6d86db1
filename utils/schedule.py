"""The learning rate as a function of the step: nothing to save, nothing to step, nothing to forget on resume.

Step s counts from 0 and takes the value at s + 1 of the continuous curves, as ModelZoo.pytorch's CosineWarmupLr and
PytorchInsight's mobile trainer do: the first step's rate is not zero, the last step's of a cosine is --min-lr. With
--sched-per-epoch all steps of epoch e, counted from 0, take the value at e, and in a linear warm-up at e + 1.

Restarts of the cosine: Loshchilov and Hutter 2017, arXiv 1608.03983. One cycle: Smith and Topin 2018, arXiv 1708.07120,
in the form of torch's OneCycleLR, of which the momentum is left alone.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from utils.config import OptimConfig, ScheduleConfig
from utils.errors import UsageError

UNSET = ScheduleConfig()
BASE_BATCH = 256  # images per --lr-base (Goyal et al. 2017, arXiv 1706.02677)
ROUNDING = 1e-9  # epochs: what sums and quotients of them may be off
Rate = Callable[[int], float]

# Which schedules a setting has an effect on.
TO_THE_END = ("cosine", "linear", "polynomial")
CURVES = (*TO_THE_END, "exponential")
ONE_CYCLE = ("onecycle", "triangle")
BELONGS = {
    "milestones": ("step",),
    "gamma": ("step", "exponential"),
    "decay_epochs": ("step", "exponential"),
    "poly_power": ("polynomial",),
    "cycles": ("cosine",),
    "cycle_mul": ("cosine",),
    "cycle_decay": ("cosine",),
    "div_factor": ONE_CYCLE,
    "final_div_factor": ONE_CYCLE,
    "cooldown_epochs": (*CURVES, *ONE_CYCLE),
    "min_lr": CURVES,
    "decay_from": CURVES,
    "warmup_lr": (*CURVES, "step", "constant"),
    "warmup_method": (*CURVES, "step", "constant"),
}


def peak_rate(optim: OptimConfig, global_batch: int) -> float:
    """The learning rate at the global batch: --lr, or --lr-base per 256 images."""
    if optim.lr is not None and optim.lr_base is not None:
        raise UsageError(f"--lr {optim.lr} and --lr-base {optim.lr_base} exclude each other; give one")
    if optim.lr is not None:
        return optim.lr
    return (0.1 if optim.lr_base is None else optim.lr_base) * global_batch / BASE_BATCH


def build_schedule(config: ScheduleConfig, peak: float, steps_per_epoch: int) -> Rate:
    """A function from the step to its learning rate, for a run of config.epochs."""
    _check(config, peak)
    rate = _rate(config, peak, steps_per_epoch)
    if config.sched_per_epoch:
        free = _rate(dataclasses.replace(config, sched_per_epoch=False), peak, steps_per_epoch)
        ends = (epoch * steps_per_epoch + step for epoch in range(config.epochs) for step in (0, steps_per_epoch - 1))
        if all(rate(step) == free(step) for step in ends):
            raise UsageError(f"--sched-per-epoch changes nothing of this --sched {config.sched}; leave it out")
    return rate


@dataclass(frozen=True)
class Moment:
    """Where a step is, in epochs: `now` at its end, `begun` at its start, or both where the epoch began if rates are
    held through it; `held` says so."""

    now: float
    begun: float
    held: bool


def _rate(config: ScheduleConfig, peak: float, steps_per_epoch: int) -> Rate:
    if config.sched in ONE_CYCLE:
        after = _one_cycle(config, peak, 1 if config.sched_per_epoch else steps_per_epoch)
    else:
        after = _warmed(config, peak, DECAYS[config.sched])

    def rate(step: int) -> float:
        epoch, held = step // steps_per_epoch, config.sched_per_epoch
        if config.swa_lr is not None and epoch >= config.swa:
            return config.swa_lr
        now = float(epoch) if held else (step + 1) / steps_per_epoch
        return after(Moment(now, float(epoch) if held else step / steps_per_epoch, held))

    return rate


def _warmed(config: ScheduleConfig, peak: float, decay: "Decay") -> Callable[[Moment], float]:
    """A warm-up, and then `decay`."""

    def rate(at: Moment) -> float:
        if at.begun >= config.warmup_epochs:
            return decay(config, peak, at)
        if config.warmup_method == "constant":
            return config.warmup_lr
        warmed = (at.now + 1 if at.held else at.now) / config.warmup_epochs
        if warmed < 1:
            return config.warmup_lr + (peak - config.warmup_lr) * warmed
        return peak if at.held else decay(config, peak, at)

    return rate


Decay = Callable[[ScheduleConfig, float, Moment], float]


def _cosine(config: ScheduleConfig, peak: float, at: Moment) -> float:
    passed, length = _passed(config, at)
    length = length / sum(config.cycle_mul**number for number in range(config.cycles))
    for _ in range(config.cycles - 1):
        if passed < length - ROUNDING or (not at.held and passed <= length + ROUNDING):
            break  # a step that ends with the cycle is its last, an epoch that starts there is the first of the next
        passed, length, peak = passed - length, length * config.cycle_mul, peak * config.cycle_decay
    return config.min_lr + (peak - config.min_lr) * _half_cosine(min(passed / length, 1.0))


def _half_cosine(share: float) -> float:
    return (1 + math.cos(math.pi * share)) / 2


def _polynomial(config: ScheduleConfig, peak: float, at: Moment) -> float:
    passed, length = _passed(config, at)
    left = 1 - min(passed / length, 1.0)
    return config.min_lr + (peak - config.min_lr) * left ** (1.0 if config.sched == "linear" else config.poly_power)


def _exponential(config: ScheduleConfig, peak: float, at: Moment) -> float:
    passed, length = _passed(config, at)
    return max(peak * config.gamma ** (min(passed, length) / (config.decay_epochs or 1.0)), config.min_lr)


def _passed(config: ScheduleConfig, at: Moment) -> tuple[float, float]:
    """Epochs since the decay began, and how many it has."""
    start = config.warmup_epochs if config.decay_from == "warmup" else 0.0
    return at.now - start, config.epochs - config.cooldown_epochs - start


def _steps(config: ScheduleConfig, peak: float, at: Moment) -> float:
    if config.decay_epochs:
        return peak * config.gamma ** math.floor((at.begun + ROUNDING) / config.decay_epochs)
    return peak * config.gamma ** sum(at.begun >= milestone for milestone in config.milestones)


DECAYS: dict[str, Decay] = {
    "cosine": _cosine,
    "linear": _polynomial,
    "polynomial": _polynomial,
    "exponential": _exponential,
    "step": _steps,
    "constant": lambda config, peak, at: peak,
}


def _one_cycle(config: ScheduleConfig, peak: float, steps_per_epoch: int) -> Callable[[Moment], float]:
    """torch's OneCycleLR, whose first step has the rate of the start; its pct_start is warmup_epochs / epochs."""
    start = peak / config.div_factor
    end = start / config.final_div_factor
    top = config.warmup_epochs * steps_per_epoch - 1  # the step of the peak
    last = (config.epochs - config.cooldown_epochs) * steps_per_epoch - 1
    bend = _half_cosine if config.sched == "onecycle" else lambda share: 1 - share

    def rate(at: Moment) -> float:
        step = at.begun * steps_per_epoch
        if step < top:
            return peak + (start - peak) * bend(step / top)
        return end + (peak - end) * bend(min((step - top) / (last - top), 1.0))

    return rate


def _check(config: ScheduleConfig, peak: float) -> None:
    for name, homes in BELONGS.items():
        if config.sched not in homes and getattr(config, name) != getattr(UNSET, name):
            flag = f"--{name.replace('_', '-')}"
            belongs = f"it belongs to --sched {', '.join(homes)}"
            raise UsageError(f"{flag} has no effect on --sched {config.sched}: {belongs}; leave it out")
    _check_epochs(config)
    _check_warmup(config)
    if config.min_lr > peak:
        raise UsageError(f"--min-lr {config.min_lr:g} is above --lr, which is {peak:g} at this batch; make it smaller")
    if config.cycles == 1 and (config.cycle_mul, config.cycle_decay) != (1.0, 1.0):
        raise UsageError("--cycle-mul and --cycle-decay have no effect on a single cycle; give --cycles, or no others")
    if config.swa_lr is not None and config.swa is None:
        raise UsageError(f"--swa-lr {config.swa_lr:g} has no effect without --swa; leave it out, or say from when on")


def _check_epochs(config: ScheduleConfig) -> None:
    epochs = config.epochs
    for name, taken in (("warmup", config.warmup_epochs), ("cooldown", config.cooldown_epochs)):
        if taken >= epochs:
            raise UsageError(f"--{name}-epochs {taken:g} leaves nothing of --epochs {epochs}; make it smaller")
    if config.warmup_epochs + config.cooldown_epochs >= epochs:
        both = f"--warmup-epochs {config.warmup_epochs:g} and --cooldown-epochs {config.cooldown_epochs:g}"
        raise UsageError(f"{both} leave nothing of --epochs {epochs}; make them smaller")
    if config.swa is not None and config.swa >= epochs:
        raise UsageError(f"--swa {config.swa} leaves nothing to average of --epochs {epochs}; start earlier")
    if config.decay_epochs and config.milestones != UNSET.milestones:
        raise UsageError("--decay-epochs and --milestones are both where to fall; give one")
    falls = (config.decay_epochs,) if config.decay_epochs else config.milestones
    if config.sched == "step" and all(fall >= epochs for fall in falls):
        first = f"{min(falls):g}" if falls else "none"
        raise UsageError(f"--sched step falls nowhere in --epochs {epochs}: first at {first}; give other --milestones")


def _check_warmup(config: ScheduleConfig) -> None:
    if config.warmup_lr and not config.warmup_epochs:
        raise UsageError(f"--warmup-lr {config.warmup_lr:g} has no effect without --warmup-epochs; leave it out")
    if config.warmup_method == "constant" and not (config.warmup_epochs and config.warmup_lr):
        raise UsageError("--warmup-method constant stays at --warmup-lr for --warmup-epochs; give both, above 0")
    if config.decay_from == "start" and config.warmup_epochs == 0:
        raise UsageError("--decay-from start changes nothing without a warm-up; leave it out")
