"""The optimizer that the flags ask for."""

import torch

from utils.config import OptimConfig
from utils.errors import UsageError
from utils.optim.decay import Group


def build_optimizer(groups: list[Group], config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer of --opt over these groups; its learning rate is set before each step."""
    return OPTIMIZERS[config.opt](groups, config)


def _sgd(groups: list[Group], config: OptimConfig) -> torch.optim.Optimizer:
    """SGD as torch has it, fused: one pass over the weights, and steps that the device itself can skip."""
    if config.nesterov and not config.momentum:
        raise UsageError("--nesterov needs a momentum above 0, found --momentum 0")
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=config.momentum, nesterov=config.nesterov, fused=True)
    if config.momentum:  # torch would leave it uninitialized where the first step is skipped, as fp16's often is
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


OPTIMIZERS = {"sgd": _sgd}


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use this learning rate in all groups from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate
