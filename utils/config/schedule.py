"""How long a run is and how its learning rate goes."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from tyro.conf import arg

from utils.config.strict import STRICT

Shape = Literal["cosine", "step", "linear", "polynomial", "exponential", "constant", "onecycle", "triangle"]
Epochs = Annotated[float, Field(ge=0)]
Epoch = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=STRICT)
class ScheduleConfig:
    """How long a run is and how its learning rate goes."""

    epochs: Epoch = 90
    """passes over the data set"""
    sched: Annotated[Shape, arg(aliases=["--lr-scheduler"])] = "cosine"
    """learning rate after the warm-up: falls as half a cosine, a line or a power to --min-lr; by --gamma in steps, or
    exponentially; stays; or rises and falls as torch's OneCycleLR, with arms of half a cosine (onecycle) or straight"""
    warmup_epochs: Annotated[Epochs, arg(aliases=["--lr-warmup-epochs"])] = 5.0
    """warm-up, epochs; onecycle, triangle: the rise, which torch has at 0.3 of all"""
    warmup_lr: Annotated[float, Field(ge=0)] = 0.0
    """learning rate where the warm-up starts"""
    warmup_method: Annotated[Literal["linear", "constant"], arg(aliases=["--lr-warmup-method"])] = "linear"
    """warm-up: rises on a line, or stays at --warmup-lr and jumps"""
    min_lr: Annotated[float, Field(ge=0), arg(aliases=["--lr-min"])] = 0.0
    """cosine, linear, polynomial: learning rate at the end; exponential: the smallest"""
    milestones: Annotated[tuple[int, ...], arg(aliases=["--decay-milestones"])] = (30, 60, 80)
    """step: epochs, counted from the start, at which the learning rate is multiplied by --gamma"""
    decay_epochs: Annotated[float | None, Field(gt=0), arg(aliases=["--lr-step-size"])] = None
    """step: multiply every so many epochs instead of at --milestones; exponential: epochs to fall by --gamma, or 1"""
    gamma: Annotated[float, Field(gt=0, le=1), arg(aliases=["--decay-rate", "--lr-gamma"])] = 0.1
    """step: factor at each milestone; exponential: factor in each --decay-epochs"""
    poly_power: Annotated[float, Field(gt=0)] = 2.0
    """polynomial: power of the share of epochs that is left"""
    cycles: Annotated[int, Field(ge=1), arg(aliases=["--lr-cycle-limit"])] = 1
    """cosine: times that it falls to --min-lr, each but the first after a warm restart"""
    cycle_mul: Annotated[float, Field(gt=0), arg(aliases=["--lr-cycle-mul"])] = 1.0
    """cycles: length of each, of the one before"""
    cycle_decay: Annotated[float, Field(gt=0, le=1), arg(aliases=["--lr-cycle-decay"])] = 1.0
    """cycles: highest learning rate of each, of the one before"""
    div_factor: Annotated[float, Field(ge=1)] = 25.0
    """onecycle, triangle: the peak, of the learning rate at the start"""
    final_div_factor: Annotated[float, Field(ge=1)] = 1e4
    """onecycle, triangle: the learning rate at the start, of that at the end"""
    cooldown_epochs: Epochs = 0.0
    """the last of --epochs, which keep the learning rate that the schedule ends with"""
    sched_per_epoch: bool = False
    """hold the learning rate through each epoch"""
    decay_from: Literal["warmup", "start"] = "warmup"
    """cosine, linear, polynomial, exponential: counted from the end of the warm-up, or from the start of the run"""
    swa: Annotated[Epoch | None, arg(aliases=["--swa-start"])] = None
    """average the weights of the ends of epochs, equally, from the end of this one on, and evaluate that too"""
    swa_lr: Annotated[float | None, Field(gt=0)] = None
    """constant learning rate after the epoch of --swa; that of the schedule if not given"""
