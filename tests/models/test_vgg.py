"""VGGs: published sizes, torchvision's weights and logits, a place for norms in the `_bn` networks alone."""

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from models import build_model, image_size
from models.vgg import VGGS
from utils.config import ModelConfig
from utils.errors import UsageError

# Parameters: torchvision's documentation, for 1000 classes; seeds.md 3.3, for 10.
PUBLISHED = {
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
    "cifar_vgg11": 9_225_610,
    "cifar_vgg11_bn": 9_231_114,
    "cifar_vgg13": 9_410_122,
    "cifar_vgg13_bn": 9_416_010,
    "cifar_vgg16": 14_719_818,
    "cifar_vgg16_bn": 14_728_266,
    "cifar_vgg19": 20_029_514,
    "cifar_vgg19_bn": 20_040_522,
}


@pytest.mark.parametrize("name", VGGS)
def test_networks_have_the_published_sizes(name: str) -> None:
    with torch.device("meta"):
        model = build_model(ModelConfig(model=name), 10 if image_size(name) == 32 else 1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]


@pytest.mark.parametrize("name", [name for name in VGGS if image_size(name) == 224])
def test_networks_have_torchvisions_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(init_weights=False).state_dict()
        ours = build_model(ModelConfig(model=name), 1000).state_dict()
    assert [(key, value.shape) for key, value in ours.items()] == [(key, value.shape) for key, value in theirs.items()]


def test_torchvision_weights_give_torchvision_logits(drawn_norms: Callable[[nn.Module], nn.Module]) -> None:
    """On the features, since the hidden layers of the classifier are half a gigabyte."""
    torch.manual_seed(0)
    theirs = drawn_norms(torchvision.models.vgg11_bn(init_weights=False).features)
    ours = build_model(ModelConfig(model="cifar_vgg11_bn"), 10).features.eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("norm", ["bn", "ws", "ln", "wn", "pws", "frn"])
def test_a_step_reaches_every_parameter(norm: str, unreached: Callable[[nn.Module], list[str]]) -> None:
    torch.manual_seed(0)
    assert unreached(build_model(ModelConfig(model="cifar_vgg11_bn", norm=norm), 10)) == []


@pytest.mark.parametrize("setting", [{"norm": "gn"}, {"norm": "ws"}, {"norm": "none"}, {"attention": "se"}])
def test_networks_without_norms_have_no_place_for_them(setting: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="no effect on cifar_vgg11"):
        build_model(ModelConfig(model="cifar_vgg11", **setting), 10)
