"""torchvision's and timm's networks: built as they are there, refused what only ours have, weights as they are."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from models import build_model, image_size, model_names
from models.interop import load_weights, read, unwrap
from models.outside import timm_names, torchvision_names
from models.starting import classifier_of
from scripts.list_models import outside_names
from utils.config import ModelConfig, OptimConfig
from utils.errors import EnvironmentFault, UsageError
from utils.optim import parameter_groups

# What decays in torchvision's networks although it is no weight of a layer, as models/outside.py tells.
EXCEPTIONS = {"layer_scale", "logit_scale", "class_token", "pos_embedding", "relative_position_bias_table"}
SMALL = "timm_test_convnext"  # made for tests
# torchvision's RegNets cannot be built on the meta device: of these the smallest only.
NAMES = [name for name in torchvision_names() if not name.startswith("regnet") or name.endswith("400mf")]


@pytest.fixture
def with_timm() -> None:
    pytest.importorskip("timm")


def on_meta(name: str, **settings: object) -> nn.Module:
    with torch.device("meta"):
        return build_model(ModelConfig(model=name, **settings), 7)


def many_dimensions(model: nn.Module) -> Iterator[str]:
    """Names of parameters with two or more dimensions that are not called weights."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and not name.endswith("weight"):
            yield name.rpartition(".")[2]


@pytest.mark.parametrize("name", NAMES)
def test_every_classifier_of_torchvision_is_built_with_our_classes(name: str) -> None:
    model = on_meta(f"tv_{name}")
    linear = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    assert getattr(linear[-1], "out_features", None) or linear[-1].out_channels == 7
    assert all(parameter.is_meta for parameter in model.parameters())
    assert set(many_dimensions(model)) <= EXCEPTIONS


def test_parameters_of_one_dimension_are_gains_and_biases() -> None:
    """torchvision's LayerNorms, BatchNorms and biases, in networks of five kinds."""
    for name in ("convnext_tiny", "swin_t", "vit_b_32", "squeezenet1_0", "efficientnet_b0"):
        model = on_meta(f"tv_{name}")
        weights, flat = parameter_groups(model, [], OptimConfig(no_wd_bias=True, weight_decay=0.1))
        assert (weights["weight_decay"], flat["weight_decay"]) == (0.1, 0.0)
        layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        assert {id(module.weight) for module in layers} <= {id(parameter) for parameter in weights["params"]}


@pytest.mark.parametrize("name", ["tv_shufflenet_v2_x0_5", "tv_googlenet", "timm_test_convnext", "timm_test_vit"])
def test_a_step_gives_one_output_and_reaches_every_parameter(name: str) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    model = build_model(ModelConfig(model=name), 10).to(memory_format=torch.channels_last).train()
    size = 160 if name.startswith("timm") else 64
    logits = model(torch.randn(2, 3, size, size).to(memory_format=torch.channels_last))
    assert logits.shape == (2, 10)
    F.cross_entropy(logits, torch.tensor([1, 2])).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_networks_are_torchvisions() -> None:
    theirs = torchvision.models.resnet18(num_classes=10).eval()
    ours = build_model(ModelConfig(model="tv_resnet18"), 10).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize(
    "setting",
    [
        {"norm": "ws"},
        {"act": "swish"},
        {"attention": "se"},
        {"width": 0.5},
        {"stem": "small"},
        {"block_order": "pre"},
        {"zero_gamma": True},
        {"freeze_norm": True},
        {"frozen_stages": 0},
        {"norm_groups": 8},
    ],
    ids=str,
)
def test_settings_of_ours_are_refused(setting: dict[str, object]) -> None:
    flag = next(iter(setting)).replace("_", "-")
    with pytest.raises(UsageError, match=f"^--{flag} .* has no effect on tv_resnet18; leave it out$"):
        on_meta("tv_resnet18", **setting)


def test_other_names_are_told_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"--model tv_resnet19 is not known; did you mean tv_resnet18\?"):
        on_meta("tv_resnet19")
    with pytest.raises(UsageError, match="--model vit_b_16 is not among our networks; did you mean torchvision's, tv_"):
        on_meta("vit_b_16")


def test_other_names_of_timm_are_told_the_nearest(with_timm: None) -> None:
    with pytest.raises(UsageError, match=r"did you mean timm_convnext_tiny\?"):
        on_meta("timm_convnext_tini")


def test_timm_is_asked_for_where_it_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(EnvironmentFault, match="--model timm_resnet50 needs the package timm; pip install timm"):
        on_meta("timm_resnet50")
    with pytest.raises(EnvironmentFault, match="pip install timm"):
        timm_names()


def test_networks_of_others_are_listed_apart() -> None:
    assert len(torchvision_names()) > 60
    assert not [name for name in model_names() if name.startswith(("tv_", "timm_"))]
    assert outside_names("torchvision") == [f"tv_{name}" for name in torchvision_names()]


def test_networks_of_timm_are_listed_as_model_takes_them(with_timm: None) -> None:
    assert SMALL in outside_names("timm")


def test_image_sizes_are_the_published_ones(with_timm: None) -> None:
    sizes = [image_size(name) for name in ("tv_resnet50", "tv_inception_v3", "tv_vit_h_14", "timm_test_vit")]
    assert sizes == [224, 299, 224, 160]


@pytest.mark.parametrize("name", ["tv_vit_b_32", "timm_test_vit"])
def test_images_of_a_size_that_a_network_cannot_take_are_refused(name: str) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    model = on_meta(name)
    with pytest.raises(UsageError, match=rf"{name} takes images of \d+ px, found 96 x 96; set --img-size"):
        model(torch.empty(1, 3, 96, 96, device="meta"))


@pytest.mark.parametrize("name", [SMALL, "tv_squeezenet1_0", "tv_regnet_x_400mf"])
def test_the_classifier_is_found_and_names_in_files_are_kept(name: str, tmp_path: Path) -> None:
    """timm's `head.fc`, which in a file of PWSConv's is our `fc`, stays what it is."""
    if name.startswith("timm"):
        pytest.importorskip("timm")
    config = ModelConfig(model=name)
    classifier = {SMALL: "head.fc", "tv_squeezenet1_0": "classifier.1", "tv_regnet_x_400mf": "fc"}[name]
    assert set(classifier_of(config)) == {f"{classifier}.weight", f"{classifier}.bias"}
    model, other = build_model(config, 7), build_model(config, 7)
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, tmp_path / "w.pth"
    )
    load_weights(other, read(tmp_path / "w.pth", name))
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in other.state_dict().items())


def test_auxiliary_classifiers_of_a_file_have_no_place() -> None:
    theirs = torchvision.models.googlenet(num_classes=7, aux_logits=True, init_weights=False).state_dict()
    ours = unwrap(theirs, "tv_googlenet")
    assert {name.split(".")[0] for name in theirs.keys() - ours.keys()} == {"aux1", "aux2"}
    assert set(ours) == set(on_meta("tv_googlenet").state_dict())
