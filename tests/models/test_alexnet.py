"""AlexNets: published sizes, torchvision's weights and logits, no place for a norm."""

import pytest
import torch
import torchvision

from models import build_model
from utils.config import ModelConfig
from utils.errors import UsageError


def test_networks_have_the_published_sizes() -> None:
    with torch.device("meta"):
        imagenet = build_model(ModelConfig(model="alexnet"), 1000)
    cifar = build_model(ModelConfig(model="cifar_alexnet"), 10)
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in (imagenet, cifar)]
    assert sizes == [61_100_840, 2_472_266]  # torchvision's documentation; seeds.md 3.3


def test_torchvision_weights_give_torchvision_logits() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.alexnet(num_classes=10).eval()
    ours = build_model(ModelConfig(model="alexnet"), 10).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


def test_a_step_reaches_every_parameter(unreached) -> None:
    torch.manual_seed(0)
    assert unreached(build_model(ModelConfig(model="cifar_alexnet", act="gelu"), 10)) == []


@pytest.mark.parametrize("setting", [{"norm": "gn"}, {"norm": "ws"}, {"norm": "pws"}, {"attention": "se"}])
def test_norms_and_attentions_have_no_place(setting: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="no effect on cifar_alexnet"):
        build_model(ModelConfig(model="cifar_alexnet", **setting), 10)
