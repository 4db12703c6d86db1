"""How weights start: as torchvision's ResNets do, and as PWS networks do."""

import torch
from torch import nn

from models.layers.convolution import PWSConv2d, WNConv2d

PWS_HEAD_DEVIATION = 0.01  # of the classifier after PWS, seeds.md 2.2


def initialize(model: nn.Module) -> None:
    """Kaiming-normal filters (He et al., arXiv 1502.01852), by fan out, or in a PWS convolution by the fan of its rule.

    Biases of convolutions start at zero, PWS gains at one, WN gains at the norm of their filter; norms keep the ones
    and zeros (and zero gammas) they were made with; linear layers keep torch's start, but in a PWS network N(0, 0.01)
    and zero biases.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            _initialize_convolution(module)
    if any(isinstance(module, PWSConv2d) for module in model.modules()):
        for linear in (module for module in model.modules() if isinstance(module, nn.Linear)):
            nn.init.normal_(linear.weight, std=PWS_HEAD_DEVIATION)
            nn.init.zeros_(linear.bias)


@torch.no_grad()
def _initialize_convolution(conv: nn.Conv2d) -> None:
    fan = f"fan_{conv.rule.fan}" if isinstance(conv, PWSConv2d) else "fan_out"
    nn.init.kaiming_normal_(conv.weight, mode=fan, nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    if isinstance(conv, WNConv2d):
        conv.g.copy_(conv.filter_norms())
