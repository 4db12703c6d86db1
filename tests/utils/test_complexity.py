"""Counts of networks: formulas, the numbers that papers print, and that counting leaves no trace."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from models import build_model
from utils.complexity import Layer, measure
from utils.config import ModelConfig


def named(model: nn.Module, height: int = 8, width: int = 8) -> dict[str, Layer]:
    return {layer.name: layer for layer in measure(model, height, width).layers}


# Million multiply-adds, parameters and activations at 224 pixels: tables of arXiv 2003.13678 and of pycls' model zoo.
PUBLISHED = {
    "resnet50": (4.1, 25.6, 11.1),
    "resnext50_32x4d": (4.2, 25.0, 14.4),
    "regnet_x_200mf": (0.2, 2.7, 2.2),
    "regnet_x_4gf": (4.0, 22.1, 12.2),
    "regnet_x_32gf": (31.7, 107.8, 36.3),
    "regnet_y_4gf": (4.0, 20.6, 12.3),
    "regnet_y_32gf": (32.3, 145.0, 30.3),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_totals_are_those_of_the_papers(name: str) -> None:
    with torch.device("meta"):
        total = measure(build_model(ModelConfig(model=name), 1000), 224, 224).total
    found = (total.multiply_adds / 1e9, total.parameters / 1e6, total.activations / 1e6)
    assert tuple(round(number, 1) for number in found) == PUBLISHED[name]


def test_layers_have_the_numbers_of_their_formulas() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(96, 5))
    layers = named(model, 6, 8)
    assert layers["0"] == Layer("0", "Conv2d", (1, 8, 3, 4), 27 * 8 + 8, 27 * 8 * 12, 8 * 12)
    assert layers["1"] == Layer("1", "BatchNorm2d", (1, 8, 3, 4), 16, 0, 0)
    assert layers["3"] == Layer("3", "Linear", (1, 5), 96 * 5 + 5, 96 * 5, 5)
    assert measure(model, 6, 8).total == Layer("total", "", (), 224 + 16 + 485, 2592 + 480, 96 + 5)


class Functional(nn.Module):
    """A matrix product without a layer, a layer that is called twice, and a parameter that two modules share."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False)
        self.second.weight = self.first.weight
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.first(x)).flatten(2)  # (n, 3, h w)
        return x @ x.transpose(1, 2)


def test_functions_and_repeated_calls_count_and_shared_parameters_count_once() -> None:
    layers = named(Functional())
    assert layers["first"] == Layer("first", "Conv2d", (1, 3, 8, 8), 9, 2 * 9 * 64, 2 * 3 * 64)
    assert layers[""] == Layer("", "Functional", (1, 3, 3), 0, 9 * 64, 9)
    assert "second" not in layers
    assert layers["unused"] == Layer("unused", "Linear", (), 6)


class Deformed(DeformConv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x, x.new_zeros(1, 18, *x.shape[2:]))


def test_deformable_convolutions_count_as_convolutions() -> None:
    assert named(Deformed(3, 8, 3, padding=1))[""].multiply_adds == 27 * 8 * 64


def test_counting_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4).eval()).half()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measure(model, 4, 4)
    assert model.training and not model[1].training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert model[0].weight.device.type == "cpu"


def test_table_has_a_line_a_layer_and_the_totals() -> None:
    lines = measure(nn.Sequential(nn.Conv2d(3, 1000, 1), nn.Identity()), 4, 4).table().splitlines()
    assert lines[0].split() == ["name", "kind", "output", "parameters", "multiply-adds", "activations"]
    assert lines[1].split() == ["0", "Conv2d", "1", *["x", "1000"], *["x", "4"] * 2, "4,000", "48,000", "16,000"]
    assert lines[2].split() == ["total", "4,000", "48,000", "16,000"]
    assert len({len(line) for line in lines}) == 1
