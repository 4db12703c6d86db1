"""MobileNets: published sizes, torchvision's weights and logits, widths, the places of norms and attentions."""

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from models import build_model
from models.interop import our_name, unwrap
from models.inverted_residual import make_divisible
from utils.config import ModelConfig
from utils.errors import UsageError

Size = Callable[[ModelConfig], int]
Unreached = Callable[[nn.Module], list[str]]
Drawn = Callable[[nn.Module], nn.Module]

# Parameters: of V2 and V3, torchvision's documentation; of V1 and the variants, seeds.md 5.5.
PUBLISHED = {
    "mobilenet_v1": 4_231_976,
    "mobilenet_v2": 3_504_872,
    "mobilenet_v3_large": 5_483_032,
    "mobilenet_v3_small": 2_542_856,
    "mobilenet_v3_large_modelzoo": 5_481_752,
    "mobilenet_v3_small_modelzoo": 2_945_288,
}
# The ModelZoo ancestor's names of tensors and ours, seeds.md 7.
NAMES = [
    ("mobilenet_v1", "mb_block.11.seq.3.weight", "features.12.1.0.weight"),
    ("mobilenet_v2", "first_block.6.weight", "features.1.conv.1.weight"),
    ("mobilenet_v2", "module.mb_block.15.seq.7.bias", "features.17.conv.3.bias"),
    ("mobilenet_v3_large_modelzoo", "mb_block.14.seq.6.out.2.bias", "features.15.block.2.fc2.bias"),
    ("mobilenet_v3_small_modelzoo", "mb_block.0.seq.4.weight", "features.1.block.2.0.weight"),
    ("mobilenet_v3_small_modelzoo", "last_block.4.weight", "classifier.0.weight"),
    ("efficientnet_b1", "blocks.0.1.se_layer.se.3.bias", "features.1.1.block.1.fc2.bias"),
    ("efficientnet_b2_modelzoo", "blocks.6.0.layer3.1.bias", "features.7.0.block.3.1.bias"),
    ("fairnas_a", "mb_blocks.18.bn3.weight", "features.20.conv.3.weight"),
    ("proxyless_gpu", "last_block.0.weight", "features.15.0.weight"),
    ("ghostnet", "stage.15.ghost2.cheap_operation.1.bias", "features.16.block.ghost2.cheap.1.bias"),
    ("ghostnet", "stage.17.weight", "features.17.1.weight"),
    ("ghostnet_a", "stage.4.1.se.block.1.weight", "features.6.block.se.fc1.weight"),
    ("ghostnet_a", "stage.10.weight", "features.20.0.weight"),
]
TORCHVISION = ("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small")


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_have_the_published_sizes(name: str, size: Size) -> None:
    assert size(ModelConfig(model=name)) == PUBLISHED[name]


@pytest.mark.parametrize(("width", "millions"), [(0.5, 1.3), (0.75, 2.6), (0.25, 0.5)])
def test_width_gives_the_sizes_of_the_papers_table(width: float, millions: float, size: Size) -> None:
    found = size(ModelConfig(model="mobilenet_v1", width=width)) / 1e6  # table 7 of arXiv 1704.04861
    assert abs(found - millions) < 0.05


@pytest.mark.parametrize("width", [0.35, 0.5, 1.4])
def test_widths_of_v2_are_torchvisions(width: float) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.mobilenet_v2(width_mult=width).state_dict()
        ours = build_model(ModelConfig(model="mobilenet_v2", width=width), 1000).state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_weights_give_torchvision_logits(name: str, drawn_norms: Drawn) -> None:
    torch.manual_seed(0)
    theirs = drawn_norms(getattr(torchvision.models, name)())
    ours = build_model(ModelConfig(model=name), 1000).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [our_name(key, name) for key in theirs.state_dict()] == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize(("network", "theirs", "ours"), NAMES)
def test_files_of_modelzoo_have_our_names(network: str, theirs: str, ours: str) -> None:
    with torch.device("meta"):
        assert ours in build_model(ModelConfig(model=network), 10).state_dict()
    assert our_name(theirs, network) == ours


def test_a_hidden_layer_that_was_a_convolution_becomes_a_matrix() -> None:
    weights = unwrap({"last_block.4.weight": torch.zeros(1280, 576, 1, 1)}, "mobilenet_v3_small_modelzoo")
    assert weights["classifier.0.weight"].shape == (1280, 576)


@pytest.mark.parametrize("name", TORCHVISION)
def test_batch_norm_has_torchvisions_constants(name: str) -> None:
    with torch.device("meta"):
        networks = build_model(ModelConfig(model=name), 10), getattr(torchvision.models, name)()
    ours, theirs = ([m for m in network.modules() if isinstance(m, nn.BatchNorm2d)] for network in networks)
    assert [(norm.eps, norm.momentum) for norm in ours] == [(norm.eps, norm.momentum) for norm in theirs]


@pytest.mark.parametrize("norm", ["bn", "ln", "ws_bn", "wn", "pws", "evonorm_b0", "frn"])
@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small"])
def test_a_step_reaches_every_parameter(name: str, norm: str, unreached: Unreached) -> None:
    torch.manual_seed(0)
    assert unreached(build_model(ModelConfig(model=name, norm=norm, width=0.35), 10)) == []


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
def test_attention_stands_before_the_last_convolution_of_each_block(name: str) -> None:
    with torch.device("meta"):
        own = build_model(ModelConfig(model=name), 10)
        chosen = build_model(ModelConfig(model=name, attention="eca"), 10)
    blocks = [block for block in chosen.modules() if type(block).__name__ == "InvertedResidual"]
    kinds = [[type(module).__name__ for module in block.modules()] for block in blocks]
    assert all(found.count("EfficientChannelAttention") == 1 for found in kinds)
    assert not any("SqueezeExcitation" in found for found in kinds)
    assert not any(type(module).__name__ == "EfficientChannelAttention" for module in own.modules())


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(model="mobilenet_v1", attention="se"),
        ModelConfig(model="mobilenet_v2", attention="bam"),
        ModelConfig(model="mobilenet_v2", attention="sk"),
        ModelConfig(model="mobilenet_v2", block_order="pre"),
    ],
    ids=str,
)
def test_what_has_no_place_is_refused(config: ModelConfig) -> None:
    with pytest.raises(UsageError, match="has no effect on"):
        build_model(config, 10)


def test_levels_end_each_resolution() -> None:
    network = build_model(ModelConfig(model="mobilenet_v2"), 10, out_indices=(0, 1, 2, 3, 4))
    maps = network(torch.zeros(1, 3, 64, 64))
    assert [(output.shape[1], output.shape[2]) for output in maps.values()] == [
        (channels, 32 // 2**i) for i, channels in enumerate((16, 24, 32, 96, 320))
    ]
    assert network.channels == [16, 24, 32, 96, 320]


def test_small_stem_keeps_the_size_of_small_images() -> None:
    model = build_model(ModelConfig(model="mobilenet_v2", stem="small"), 10)
    assert model.features[0](torch.zeros(1, 3, 32, 32)).shape[2:] == (32, 32)


@pytest.mark.parametrize(
    ("channels", "rounded"), [(11.2, 16), (12, 16), (16, 16), (19, 24), (20, 24), (33, 32), (3, 8)]
)
def test_rounded_channels_lose_at_most_a_tenth(channels: float, rounded: int) -> None:
    assert make_divisible(channels) == rounded
    assert rounded >= 0.9 * channels


def test_zero_gamma_starts_the_branches_with_a_shortcut_at_zero() -> None:
    model = build_model(ModelConfig(model="mobilenet_v2", zero_gamma=True), 10)
    zero = {name for name, parameter in model.named_parameters() if name.endswith("weight") and not parameter.any()}
    assert len(zero) == 10
    assert all(name.endswith("conv.3.weight") for name in zero)
