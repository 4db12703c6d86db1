"""Every network of ours, and every norm, activation and attention on the smallest of each family.

Really run, in float64: a step reaches every parameter, gains and biases have one dimension and weights more, the state
dict goes round, the layout in memory changes nothing. All other pairs of network and norm only in shapes.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from math import inf
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn import init

from models import FAMILIES, build_model, image_size
from models.interop import our_name
from models.layers.activation import ACTIVATIONS
from models.layers.attending import ATTENTIONS
from models.layers.attention import StyleRecalibration
from models.layers.convolution import StandardizedConv2d, WNConv2d
from models.layers.normalization import NORMALIZATIONS
from scripts.convert_checkpoint import ConvertConfig, convert
from utils.config import ModelConfig
from utils.errors import UsageError

CLASSES = 5
SIZES = json.loads(Path(__file__).with_name("complexity.json").read_text())
NAMES = [name for rows in FAMILIES.values() for name in rows]
# Networks above these are run once and in float32: they have the blocks of smaller ones, and all must take minutes.
MOST_PARAMETERS, MOST_MULTIPLY_ADDS = 50e6, 2e9
COSTLY = 1e9  # multiply-adds above which networks for 32 px, which stride by 4 in all, are run on 16 px
UNBOUNDED = FAMILIES["LambdaNetwork"]  # of cubes of features: others' statistics overflow, rounding multiplies
LAYOUT_TOLERANCE = 1e-9  # of the largest logit
FLOAT32_EPSILON, FLOAT64_EPSILON = 2**-23, 2**-52
GROUPS = (32, 16, 8, 4, 2, 1)


def cost(name: str) -> float:
    return SIZES.get(name, {}).get("parameters", inf)


def is_large(name: str) -> bool:
    return SIZES[name]["parameters"] > MOST_PARAMETERS or SIZES[name]["multiply_adds"] > MOST_MULTIPLY_ADDS


SMALLEST = [min(rows, key=cost) for rows in FAMILIES.values()]


def on_meta(config: ModelConfig) -> nn.Module:
    with torch.device("meta"):
        return build_model(config, CLASSES)


@lru_cache(maxsize=1)
def kept_on_meta(config: ModelConfig) -> nn.Module:
    """As `on_meta`, for whoever changes nothing: the last one is not built again."""
    return on_meta(config)


def config_of(name: str, **settings: object) -> ModelConfig:
    """The settings, with as many groups as the channels of the network allow. UsageError if there is another reason."""
    config = ModelConfig(model=name, **settings)
    needs_groups = "norm_groups" in NORMALIZATIONS[config.norm].settings
    for groups in GROUPS if needs_groups else ():
        config = replace(config, norm_groups=groups)
        try:
            kept_on_meta(config)
        except UsageError as error:
            if "--norm-groups" not in str(error) or groups == 1:
                raise
        else:
            break
    return config


def refused_or(name: str, setting: str, choice: str, **more: object) -> ModelConfig | None:
    """The settings, or None if the network refuses them with a sentence about that flag."""
    try:
        config = config_of(name, **{setting: choice}, **more)
        kept_on_meta(config)
    except UsageError as error:
        assert f"--{setting}" in str(error)
        return None
    return config


def has_place_for_norm(name: str) -> bool:
    return any(isinstance(module, nn.BatchNorm2d) for module in on_meta(ModelConfig(model=name)).modules())


def side(name: str) -> int:
    """A small image, on which no layer is left with a single position."""
    if image_size(name) > 32:
        return 64
    return 16 if SIZES[name]["multiply_adds"] > COSTLY else 32


def refuse_other_dimensions(model: nn.Module) -> None:
    """Gains and biases have one dimension, weights of layers two or more: what weight decay goes by."""
    weights = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, StyleRecalibration)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            assert (parameter.ndim > 1) == (isinstance(module, weights) and name == "weight"), (type(module), name)


def calibrating(model: nn.Module) -> nn.Module:
    """One training batch gives the statistics that evaluation goes by: with others, deep networks multiply rounding."""
    for module in model.modules():
        if hasattr(module, "momentum"):
            module.momentum = 1.0
    return model


def learn(model: nn.Module, images: torch.Tensor, zero_start: bool = False) -> None:
    """One training step reaches every parameter, and weights have other dimensions than gains and biases."""
    logits = model(images)
    F.cross_entropy(logits, torch.tensor([1, 2])).backward()
    assert logits.shape == (2, CLASSES)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, grad in gradients.items() if grad is None or not grad.isfinite().all()] == []
    assert zero_start or [name for name, grad in gradients.items() if grad.ndim > 1 and not grad.any()] == []
    refuse_other_dimensions(model)
    model.zero_grad()


def exercise(config: ModelConfig, *, zero_start: bool = False) -> None:
    """One training step, and the same network from its state dict, in channels_last.

    `zero_start`: some weights start at zero, or behind a few hidden channels that may all be off, as attentions' do.
    """
    torch.manual_seed(0)
    model = calibrating(build_model(config, CLASSES))
    images = torch.randn(2, 3, side(config.model), side(config.model))
    learn(model, images, zero_start)
    twin = on_meta(config)
    twin.load_state_dict(model.state_dict(), strict=True, assign=True)
    with torch.no_grad():
        by_batch = config.model in UNBOUNDED
        logits = model.train(by_batch)(images)
        twin.train(by_batch).to(memory_format=torch.channels_last)
        others = twin(images.to(memory_format=torch.channels_last))
        rounding = (model(images * (1 + FLOAT64_EPSILON)) - logits).abs().max() if by_batch else 0
    assert (logits - others).abs().max() <= LAYOUT_TOLERANCE * logits.abs().max() + 100 * rounding


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", [name for name in NAMES if not is_large(name)])
def test_network_learns_and_its_weights_travel(name: str) -> None:
    exercise(ModelConfig(model=name))


@pytest.mark.parametrize("name", [name for name in NAMES if is_large(name)])
def test_large_network_learns(name: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(model=name)
    model = build_model(config, CLASSES)
    learn(model, torch.randn(2, 3, side(name), side(name)))
    on_meta(config).load_state_dict(model.state_dict(), strict=True, assign=True)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("norm", [norm for norm in NORMALIZATIONS if norm != ModelConfig().norm])
@pytest.mark.parametrize("name", SMALLEST)
def test_norm_works_or_is_refused(name: str, norm: str) -> None:
    config = refused_or(name, "norm", norm)
    row = NORMALIZATIONS[norm]
    assert (config is not None) == has_place_for_norm(name) or not (row.norm or row.fused or row.ends)
    if config:
        exercise(config)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("name", SMALLEST)
def test_activation_works(name: str, act: str) -> None:
    exercise(ModelConfig(model=name, act=act))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("attention", [name for name in ATTENTIONS if name != "auto"])
@pytest.mark.parametrize("name", SMALLEST)
def test_attention_works_or_is_refused(name: str, attention: str) -> None:
    groups = {"attention_groups": 4} if "attention_groups" in ATTENTIONS[attention].settings else {}
    if config := refused_or(name, "attention", attention, **groups):
        exercise(config, zero_start=True)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["tv_squeezenet1_1", "timm_test_efficientnet"])
def test_network_of_others_learns_and_its_weights_travel(name: str) -> None:
    if name.startswith("timm_"):
        pytest.importorskip("timm")
    exercise(ModelConfig(model=name))


def norm_layers() -> set[type[nn.Module]]:
    """The classes that stand for a norm, with or without its activation."""
    makers = [maker for row in NORMALIZATIONS.values() for maker in (row.norm, row.fused) if maker]
    return {type(maker(ModelConfig())(32)) for maker in makers} | {nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish}


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only shapes are left: no initial values, no kernels, norms and activations that keep the shape.

    On the meta device torch takes ten times as long for all that as for the convolutions.
    """
    for name in (name for name in dir(init) if name.endswith("_") and not name.startswith("_")):
        monkeypatch.setattr(init, name, lambda tensor, *rest, **options: tensor)
    for kind in norm_layers():
        monkeypatch.setattr(kind, "forward", lambda module, x: x)
    monkeypatch.setattr(StandardizedConv2d, "forward", nn.Conv2d.forward)
    monkeypatch.setattr(WNConv2d, "filter_norms", lambda conv: conv.weight.new_empty(conv.out_channels))


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("name", NAMES)
def test_our_own_files_keep_their_names(name: str) -> None:
    names = on_meta(ModelConfig(model=name)).state_dict()
    assert [(tensor, our_name(tensor, name)) for tensor in names if our_name(tensor, name) != tensor] == []


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("name", NAMES)
def test_all_norms_fit_every_network_in_shapes(name: str) -> None:
    for config in filter(None, (refused_or(name, "norm", norm) for norm in NORMALIZATIONS)):
        model = kept_on_meta(config)
        refuse_other_dimensions(model)
        with torch.no_grad():
            logits = model(torch.empty(2, 3, side(name), side(name), device="meta"))
        assert logits.shape == (2, CLASSES)


@pytest.mark.parametrize("name", SMALLEST)
def test_onnx_file_gives_the_logits(name: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    config, size = ModelConfig(model=name), side(name)
    model = calibrating(build_model(config, CLASSES))
    images = torch.randn(3, 3, size, size)
    model(images)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    convert(ConvertConfig(tmp_path / "weights.pth", onnx=tmp_path / "network.onnx", img_size=size, model=config))
    session = runtime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    logits = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    with torch.no_grad():
        rounded, exact = model.eval()(images), model.double()(images.double())
    noise = max((rounded - exact).abs().max().item(), FLOAT32_EPSILON * exact.abs().max().item())
    assert (logits - exact).abs().max().item() <= 10 * noise  # sums are added in another order
