"""The settings of a run: typed sections, from a TOML recipe and flags."""

from dataclasses import field

from pydantic.dataclasses import dataclass

from utils.config.contract import ContractConfig
from utils.config.data import DataConfig
from utils.config.loss import LossConfig
from utils.config.model import ModelConfig
from utils.config.optim import OptimConfig
from utils.config.run import RunConfig
from utils.config.schedule import ScheduleConfig
from utils.config.training import TrainingConfig

__all__ = [
    "Config",
    "ContractConfig",
    "DataConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "RunConfig",
    "ScheduleConfig",
    "TrainingConfig",
]


@dataclass(frozen=True)
class Config:
    """Every setting of a run. One builder reads each section."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    run: RunConfig = field(default_factory=RunConfig)
    contract: ContractConfig = field(default_factory=ContractConfig)
