"""What each parameter of a network is, over networks that have all sorts."""

import pytest
import torch
from torch import nn

from models import build_model, gain_parameters
from models.kinds import parameter_kinds
from utils.config import ModelConfig, OptimConfig
from utils.errors import UsageError
from utils.optim import build_optimizer, el2_told, parameter_groups
from utils.optim.kinds import is_filter


def on_meta(name: str, **settings: object) -> nn.Module:
    with torch.device("meta"):
        return build_model(ModelConfig(model=name, **settings), 10)


def named_kinds(model: nn.Module) -> dict[str, frozenset[str]]:
    kinds = parameter_kinds(model, 10)
    return {name: kinds[parameter] for name, parameter in model.named_parameters()}


def test_resnet_has_filters_norms_and_a_head() -> None:
    found = named_kinds(on_meta("resnet18"))
    assert found["layer1.0.conv1.weight"] == {"conv"}
    assert found["layer1.0.bn1.weight"] == {"norm"}
    assert found["layer1.0.bn1.bias"] == {"bias"}
    assert found["fc.weight"] == {"fc", "head"}
    assert found["fc.bias"] == {"bias", "head"}
    assert [name for name, kinds in found.items() if "head" in kinds] == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize("attention", ["se", "cbam", "sge", "gc", "srm", "eca", "gl", "bam", "sk", "split"])
def test_attention_is_told_from_the_network_around_it(attention: str) -> None:
    model, plain = on_meta("resnet50", attention=attention), on_meta("resnet50")
    kinds = parameter_kinds(model, 10)
    attended = {name for name, p in model.named_parameters() if "attention" in kinds[p]}
    assert attended
    if attention not in ("sk", "split"):
        assert {name for name, _ in model.named_parameters()} - attended == dict(plain.named_parameters()).keys()
    assert not any(is_filter(parameter, kinds) for parameter in model.parameters() if "attention" in kinds[parameter])


def test_mobilenets_depthwise_and_squeezing_layers() -> None:
    model = on_meta("mobilenet_v3_small")
    kinds = parameter_kinds(model, 10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            assert kinds[module.weight] == {"conv", "depthwise"}
    assert any("attention" in found for found in kinds.values())


def test_head_of_convolutions_is_found() -> None:
    found = named_kinds(on_meta("tv_squeezenet1_1"))
    assert [name for name, kinds in found.items() if "head" in kinds] == ["classifier.1.weight", "classifier.1.bias"]


def test_embeddings_are_no_filters() -> None:
    found = named_kinds(on_meta("lambda_resnet26"))
    assert all("conv" in kinds or "attention" in kinds for name, kinds in found.items() if name.endswith("to_q.weight"))
    positions = nn.Module()
    positions.embedding = nn.Parameter(torch.zeros(3, 3, 4))
    kinds = parameter_kinds(positions, 10)
    assert list(kinds.values()) == [{"other"}]
    assert not is_filter(positions.embedding, kinds)


def decays(model: nn.Module, **settings: object) -> dict[str, float]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    optim = OptimConfig(weight_decay=0.1, **settings)
    groups = parameter_groups(model, gain_parameters(model), optim, parameter_kinds(model, 10))
    found = {names[p]: group["weight_decay"] for group in groups for p in group["params"]}
    assert found.keys() == dict(model.named_parameters()).keys()
    return found


@pytest.mark.parametrize("kind", ["norm", "bias", "fc", "conv", "depthwise", "attention"])
def test_a_kind_that_is_skipped_does_not_decay_and_all_others_do(kind: str) -> None:
    model = on_meta("mobilenet_v3_small")
    kinds = named_kinds(model)
    for name, decay in decays(model, wd_skip=(kind,)).items():
        assert decay == (0.0 if kind in kinds[name] else 0.1), name


def test_el2_takes_over_filters_and_leaves_the_decay_of_all_else() -> None:
    """The ancestor's depthwise filters lost all decay with it."""
    model = on_meta("mobilenet_v3_small")
    kinds = named_kinds(model)
    for name, decay in decays(model, el2=True).items():
        held = kinds[name] == {"conv"}
        assert decay == (0.0 if held else 0.1), name
    assert el2_told(model, parameter_kinds(model, 10)).startswith("el2        on 2")
    assert "11 depthwise" in el2_told(model, parameter_kinds(model, 10))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"wd_skip": ("depthwise",)}, "--wd-skip depthwise has no effect on this network; leave it out"),
        (
            {"wd_skip": ("bias",), "no_wd_bias": True},
            "--wd-skip bias has no effect on this network beside --no-wd-bias",
        ),
        ({"wd_skip": ("conv",), "el2": True}, "--wd-skip conv has no effect on this network beside"),
        ({"wd_skip": ("norm", "norm")}, "--wd-skip norm has no effect on this network beside"),
    ],
    ids=str,
)
def test_skipping_nothing_is_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        decays(on_meta("resnet20"), **settings)
    with pytest.raises(UsageError, match="--wd-skip fc has no effect with --weight-decay 0"):
        parameter_groups(on_meta("resnet20"), [], OptimConfig(wd_skip=("fc",), weight_decay=0))


@pytest.mark.parametrize("attention", ["sge", "gc", "cbam"])
def test_el2_stays_finite_where_attentions_start_constant(attention: str) -> None:
    """Filters without deviation made the ancestor's NaN at once (seeds.md 8, 20)."""
    model = build_model(ModelConfig(model="resnet26", attention=attention), 10)
    kinds, optim = parameter_kinds(model, 10), OptimConfig(el2=True)
    optimizer = build_optimizer(parameter_groups(model, [], optim, kinds), optim, kinds)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
