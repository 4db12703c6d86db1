"""Gains of PWS convolutions that start from data."""

import pytest
import torch
from torch import Tensor, nn

from models import build_model, gain_parameters, set_data_gains, wants_data_gains
from models.layers.convolution import PWSConv2d
from utils.config import ModelConfig
from utils.errors import NumericsError


def pws_network(gain: str = "data") -> nn.Module:
    torch.manual_seed(0)
    return build_model(ModelConfig(model="resnet20", norm="pws", pws_gain=gain), 10)


def images() -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def flagged(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if getattr(module, "gain_from_data", False)]


def outputs_of(model: nn.Module, names: list[str], x: Tensor) -> dict[str, Tensor]:
    found = {}
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda _, __, y, name=name: found.update({name: y.clone()}))
    with torch.no_grad():
        model(x)
    return found


def test_stem_first_convolutions_and_downsamples_are_flagged() -> None:
    blocks = [f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(3)]
    assert set(flagged(pws_network())) == {"conv1", *blocks, "layer2.0.downsample.0", "layer3.0.downsample.0"}


@pytest.mark.parametrize(("name", "gains", "convs"), [("resnet50", 26_560, 21), ("resnet34", 8_512, 20)])
def test_counts_are_those_of_the_ancestor(name: str, gains: int, convs: int) -> None:
    with torch.device("meta"):
        model = build_model(ModelConfig(model=name, norm="pws"), 1000)
    assert sum(alpha.numel() for alpha in gain_parameters(model)) == gains
    assert len(flagged(model)) == convs


def test_flagged_outputs_get_variance_two_and_other_gains_stay() -> None:
    model = pws_network()
    set_data_gains(model, images())
    names = flagged(model)
    for output in outputs_of(model, names, images()).values():
        assert output.var().item() == pytest.approx(2, rel=1e-4)
    others = [m for name, m in model.named_modules() if isinstance(m, PWSConv2d) and name not in names]
    assert others
    assert all(torch.equal(conv.alpha, torch.ones_like(conv.alpha)) for conv in others)


def test_nothing_but_gains_changes() -> None:
    model = nn.Sequential(pws_network(), nn.Unflatten(1, (10, 1, 1)), nn.BatchNorm2d(10), nn.Dropout()).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    generator = torch.get_rng_state()
    set_data_gains(model, images())
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == [f"0.{name}.alpha" for name in flagged(model[0])]
    assert not any(module.training for module in model.modules())
    assert not any(conv._forward_hooks for conv in model.modules() if isinstance(conv, PWSConv2d))
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_autocast_around_it_changes_nothing() -> None:
    plain, cast = pws_network(), pws_network()
    set_data_gains(plain, images())
    with torch.autocast("cpu", torch.bfloat16):
        set_data_gains(cast, images())
    for one, two in zip(gain_parameters(plain), gain_parameters(cast), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_images_without_variance_are_an_error_that_names_the_convolution(value: float) -> None:
    model = pws_network()
    with pytest.raises(NumericsError, match=r"^conv1: .*variance"):
        set_data_gains(model, torch.full((2, 3, 16, 16), value))
    assert model.training
    assert not any(conv._forward_hooks for conv in model.modules() if isinstance(conv, PWSConv2d))


def test_only_networks_that_ask_for_it_want_gains_from_data() -> None:
    assert wants_data_gains(pws_network())
    assert not wants_data_gains(pws_network("one"))
    assert not wants_data_gains(build_model(ModelConfig(model="resnet20"), 10))
