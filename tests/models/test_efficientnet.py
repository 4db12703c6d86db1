"""EfficientNets: published sizes, torchvision's weights and logits, ModelZoo's unscaled widths."""

import math
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from models import build_model, image_size
from utils.config import ModelConfig

Size = Callable[[ModelConfig], int]
Unreached = Callable[[nn.Module], list[str]]
Drawn = Callable[[nn.Module], nn.Module]

# Parameters: torchvision's documentation, and the ModelZoo ancestor's of unscaled width (seeds.md 5.5).
PUBLISHED = {
    "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232,
    "efficientnet_b4": 19_341_616,
    "efficientnet_b5": 30_389_784,
    "efficientnet_b6": 43_040_704,
    "efficientnet_b7": 66_347_960,
    "efficientnet_b2_modelzoo": 7_794_184,
    "efficientnet_b3_modelzoo": 8_693_608,
    "efficientnet_b7_modelzoo": 17_663_056,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_have_the_published_sizes(name: str, size: Size) -> None:
    assert size(ModelConfig(model=name)) == PUBLISHED[name]


@pytest.mark.parametrize("name", [name for name in PUBLISHED if not name.endswith("_modelzoo")])
def test_names_shapes_dropout_and_batch_norm_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        networks = build_model(ModelConfig(model=name), 1000), getattr(torchvision.models, name)()
    ours, theirs = ([(key, value.shape) for key, value in network.state_dict().items()] for network in networks)
    assert ours == theirs
    ours, theirs = ([m for m in network.modules() if isinstance(m, nn.BatchNorm2d)] for network in networks)
    assert [(norm.eps, norm.momentum) for norm in ours] == [(norm.eps, norm.momentum) for norm in theirs]
    assert networks[0].classifier[0].p == networks[1].classifier[0].p


def test_torchvision_weights_give_torchvision_logits(drawn_norms: Drawn) -> None:
    torch.manual_seed(0)
    theirs = drawn_norms(torchvision.models.efficientnet_b1())
    ours = build_model(ModelConfig(model="efficientnet_b1"), 1000).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("norm", ["bn", "ln", "ws_bn", "wn", "pws"])
def test_a_step_reaches_every_parameter(norm: str, unreached: Unreached) -> None:
    torch.manual_seed(0)
    assert unreached(build_model(ModelConfig(model="efficientnet_b0", norm=norm, width=0.25), 10)) == []


def test_head_starts_uniform_by_its_outputs() -> None:
    weight = build_model(ModelConfig(model="efficientnet_b0", width=0.25), 400).classifier[1].weight
    assert 0.049 < weight.abs().max() <= 0.05  # 1 / sqrt(400)
    assert math.isclose(weight.std().item(), 0.05 / math.sqrt(3), rel_tol=0.01)


def test_images_grow_with_the_network() -> None:
    assert [image_size(f"efficientnet_b{i}") for i in range(8)] == [224, 240, 260, 300, 380, 456, 528, 600]
