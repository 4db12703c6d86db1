"""GhostNets: the sizes of the ancestor's, any width, and modules that are half cheap."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import build_model
from models.ghostnet import GhostModule
from models.layers import Layers
from utils.config import ModelConfig

Size = Callable[[ModelConfig], int]
Unreached = Callable[[nn.Module], list[str]]

# Parameters by name and width, seeds.md 5.5.
PUBLISHED = {
    ("ghostnet", 0.5): 2_587_292,
    ("ghostnet", 1.0): 5_182_508,
    ("ghostnet", 1.3): 7_358_820,
    ("ghostnet600", 1.0): 11_905_350,
    ("ghostnet_a", 1.0): 11_883_539,
}


@pytest.mark.parametrize(("name", "width"), PUBLISHED)
def test_networks_have_the_published_sizes(name: str, width: float, size: Size) -> None:
    assert size(ModelConfig(model=name, width=width)) == PUBLISHED[name, width]


@pytest.mark.parametrize("norm", ["bn", "ln", "ws_bn", "wn", "pws", "frn"])
@pytest.mark.parametrize(("name", "width"), [("ghostnet", 0.5), ("ghostnet600", 0.2), ("ghostnet_a", 0.37)])
def test_a_step_reaches_every_parameter(name: str, width: float, norm: str, unreached: Unreached) -> None:
    torch.manual_seed(0)
    assert unreached(build_model(ModelConfig(model=name, norm=norm, width=width), 10)) == []


def test_half_of_the_channels_are_cheap_convolutions_of_the_other_half() -> None:
    torch.manual_seed(0)
    module = GhostModule(4, 6, Layers(ModelConfig(norm="none")), None)
    x = torch.randn(2, 4, 5, 5)
    primary = F.conv2d(x, module.primary[0].weight)
    cheap = F.conv2d(primary, module.cheap[0].weight, padding=1, groups=3)
    assert torch.equal(module(x), torch.cat([primary, cheap], 1))


def test_attention_takes_the_place_of_squeeze_and_excitation() -> None:
    with torch.device("meta"):
        model = build_model(ModelConfig(model="ghostnet", attention="srm"), 10)
    kinds = [type(module).__name__ for module in model.modules()]
    assert kinds.count("StyleRecalibration") == 16
    assert "SqueezeExcitation" not in kinds
