"""How long a run is and how its learning rate goes."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from tyro.conf import arg

from utils.config.strict import STRICT


@dataclass(frozen=True, config=STRICT)
class ScheduleConfig:
    """How long a run is and how its learning rate goes."""

    epochs: Annotated[int, Field(ge=1)] = 90
    """passes over the data set"""
    sched: Annotated[Literal["cosine", "step"], arg(aliases=["--lr-scheduler"])] = "cosine"
    """learning rate after the warm-up: half a cosine to --min-lr, or --gamma at each of --milestones"""
    warmup_epochs: Annotated[float, Field(ge=0), arg(aliases=["--lr-warmup-epochs"])] = 5.0
    """linear warm-up, epochs"""
    warmup_lr: Annotated[float, Field(ge=0)] = 0.0
    """learning rate where the warm-up starts"""
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    """cosine: learning rate at the end"""
    milestones: Annotated[tuple[int, ...], arg(aliases=["--decay-milestones"])] = (30, 60, 80)
    """step: epochs at which the learning rate is multiplied"""
    gamma: Annotated[float, Field(gt=0, le=1), arg(aliases=["--decay-rate"])] = 0.1
    """step: factor at each milestone"""
    sched_per_epoch: bool = False
    """hold the learning rate through each epoch"""
    decay_from: Literal["warmup", "start"] = "warmup"
    """cosine: counted from the end of the warm-up, or from the start of the run"""
