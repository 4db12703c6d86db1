"""DenseNets: published sizes, torchvision's weights and logits, its older names, weight standardization."""

import re
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from models import build_model, image_size
from models.densenet import DENSENETS, cifar
from models.interop import our_name
from models.layers.convolution import WSConv2d
from utils.config import ModelConfig

# Parameters: torchvision's documentation, for 1000 classes; seeds.md 3.3, for 10.
PUBLISHED = {
    "densenet121": 7_978_856,
    "densenet161": 28_681_000,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
    "cifar_densenet100_12": 769_162,
    "cifar_densenet190_40": 25_624_430,
}


@pytest.mark.parametrize("name", DENSENETS)
def test_networks_have_the_published_sizes(name: str) -> None:
    with torch.device("meta"):
        model = build_model(ModelConfig(model=name), 10 if image_size(name) == 32 else 1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]


@pytest.mark.parametrize("name", [name for name in DENSENETS if image_size(name) == 224])
def test_networks_have_torchvisions_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)().state_dict()
        ours = build_model(ModelConfig(model=name), 1000).state_dict()
    assert [(key, value.shape) for key, value in ours.items()] == [(key, value.shape) for key, value in theirs.items()]


def test_torchvision_weights_give_torchvision_logits(drawn_norms: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    theirs = drawn_norms(torchvision.models.densenet121(num_classes=10))
    ours = build_model(ModelConfig(model="densenet121"), 10).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


def test_names_in_torchvisions_files_are_ours() -> None:
    """Files of its first versions have dots where the network now has none: `denselayer1.norm.1.weight`."""
    with torch.device("meta"):
        names = list(build_model(ModelConfig(model="densenet121"), 10).state_dict())
    older = [re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name) for name in names]
    assert older != names
    assert [our_name(name, "densenet121") for name in older] == names
    assert [our_name(name, "densenet121") for name in names] == names


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("conv1.weight", "features.conv0.weight"),
        ("dense1.0.bn1.bias", "features.denseblock1.denselayer1.norm1.bias"),
        ("dense3.15.conv2.weight", "features.denseblock3.denselayer16.conv2.weight"),
        ("trans1.bn1.running_var", "features.transition1.norm.running_var"),
        ("trans2.conv1.weight", "features.transition2.conv.weight"),
        ("bn.weight", "features.norm5.weight"),
        ("fc.bias", "classifier.bias"),
    ],
)
def test_names_of_the_ancestor_become_ours(theirs: str, ours: str) -> None:
    assert our_name(theirs, "cifar_densenet100_12") == ours
    assert our_name(ours, "cifar_densenet100_12") == ours
    assert ours in on_cifar()


def on_cifar() -> dict[str, Tensor]:
    with torch.device("meta"):
        return build_model(ModelConfig(model="cifar_densenet100_12"), 10).state_dict()


@pytest.mark.parametrize("norm", ["bn", "in_affine", "ws_bn", "ln", "wn", "pws", "evonorm_b0"])
def test_a_step_reaches_every_parameter(norm: str, unreached: Callable[[nn.Module], list[str]]) -> None:
    torch.manual_seed(0)
    assert unreached(build_model(ModelConfig(model="cifar_densenet100_12", norm=norm), 10)) == []


def test_weight_standardization_takes_every_convolution() -> None:
    with torch.device("meta"):
        model = build_model(ModelConfig(model="densenet201", norm="ws_bn"), 1000)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 200
    assert all(isinstance(module, WSConv2d) for module in convolutions)
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED["densenet201"]


def test_cifar_depths_are_6n_plus_4() -> None:
    assert cifar(40, 12).depths == (6, 6, 6)
    with pytest.raises(ValueError, match="6n \\+ 4"):
        cifar(41, 12)
