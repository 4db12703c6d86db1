"""Optimizers, what is around them, and which parameters they decay."""

from utils.optim.building import build_optimizer, set_rate
from utils.optim.clipping import build_clipping
from utils.optim.decay import parameter_groups
from utils.optim.guarding import Steps
from utils.optim.shaping import el2_told
from utils.optim.sharpness import Sharpness

__all__ = ["Sharpness", "Steps", "build_clipping", "build_optimizer", "el2_told", "parameter_groups", "set_rate"]
