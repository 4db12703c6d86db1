"""Optimizers, and which parameters they decay."""

from utils.optim.building import build_optimizer, set_rate
from utils.optim.decay import parameter_groups

__all__ = ["build_optimizer", "parameter_groups", "set_rate"]
