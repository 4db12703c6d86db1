"""RegNets: widths and depths from five numbers, published sizes, torchvision's weights and logits."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from models import build_model
from models.regnet import REGNETS
from utils.config import ModelConfig

# (depths, widths, parameters) of the paper's appendix D and of the ModelZoo ancestor's code (seeds.md 5.5), where the
# two agree; of Y, whose hidden channels differ, without parameters.
PUBLISHED = {
    "regnet_x_200mf": ((1, 1, 4, 7), (24, 56, 152, 368), 2_684_792),
    "regnet_x_400mf": ((1, 2, 7, 12), (32, 64, 160, 384), 5_157_512),
    "regnet_x_600mf": ((1, 3, 5, 7), (48, 96, 240, 528), 6_196_040),
    "regnet_x_800mf": ((1, 3, 7, 5), (64, 128, 288, 672), 7_259_656),
    "regnet_x_1_6gf": ((2, 4, 10, 2), (72, 168, 408, 912), 9_190_136),
    "regnet_x_3_2gf": ((2, 6, 15, 2), (96, 192, 432, 1008), 15_296_552),
    "regnet_x_4gf": ((2, 5, 14, 2), (80, 240, 560, 1360), 22_118_248),
    "regnet_x_6_4gf": ((2, 4, 10, 1), (168, 392, 784, 1624), 26_209_256),
    "regnet_x_8gf": ((2, 5, 15, 1), (80, 240, 720, 1920), 39_572_648),
    "regnet_x_12gf": ((2, 5, 11, 1), (224, 448, 896, 2240), 46_106_056),
    "regnet_x_16gf": ((2, 6, 13, 1), (256, 512, 896, 2048), 54_278_536),
    "regnet_x_32gf": ((2, 7, 13, 1), (336, 672, 1344, 2520), 107_811_560),
    "regnet_y_200mf": ((1, 1, 4, 7), (24, 56, 152, 368), None),
    "regnet_y_400mf": ((1, 3, 6, 6), (48, 104, 208, 440), 4_344_144),
    "regnet_y_600mf": ((1, 3, 7, 4), (48, 112, 256, 608), None),
    "regnet_y_800mf": ((1, 3, 8, 2), (64, 128, 320, 768), None),
    "regnet_y_1_6gf": ((2, 6, 17, 2), (48, 120, 336, 888), 11_202_430),
    "regnet_y_3_2gf": ((2, 5, 13, 1), (72, 216, 576, 1512), 19_436_338),
    "regnet_y_4gf": ((2, 6, 12, 2), (128, 192, 512, 1088), None),
    "regnet_y_6_4gf": ((2, 7, 14, 2), (144, 288, 576, 1296), None),
    "regnet_y_8gf": ((2, 4, 10, 1), (168, 448, 896, 2016), None),
    "regnet_y_12gf": ((2, 5, 11, 1), (224, 448, 896, 2240), None),
    "regnet_y_16gf": ((2, 4, 11, 1), (224, 448, 1232, 3024), 83_590_140),
    "regnet_y_32gf": ((2, 5, 12, 1), (232, 696, 1392, 3712), 145_046_770),
}
# Parameters of the ModelZoo ancestor's networks, seeds.md 5.5; of torchvision's, its own documentation.
VARIANTS = {
    "regnet_x_800mf_modelzoo": 8_849_416,
    "regnet_y_200mf_modelzoo": 3_210_920,
    "regnet_y_400mf_modelzoo": 4_409_398,
    "regnet_y_800mf_modelzoo": 6_471_224,
    "regnet_y_4gf_modelzoo": 21_054_472,
    "regnet_y_32gf_modelzoo": 150_022_698,
    "regnet_x_400mf_torchvision": 5_495_976,
    "regnet_y_800mf_torchvision": 6_432_512,
    "regnet_y_8gf_torchvision": 39_381_472,
}


def parameters(name: str) -> int:
    with torch.device("meta"):
        model = build_model(ModelConfig(model=name), 1000)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_five_numbers_give_the_published_stages(name: str) -> None:
    depths, widths, count = PUBLISHED[name]
    assert REGNETS[name].stages() == list(zip(widths, depths, strict=True))
    assert count is None or parameters(name) == count


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_have_the_sizes_of_their_authors(name: str) -> None:
    assert parameters(name) == VARIANTS[name]


def test_every_published_network_is_a_row() -> None:
    papers = {name for name in REGNETS if not name.endswith(("_modelzoo", "_torchvision"))}
    assert papers == set(PUBLISHED)


@pytest.mark.parametrize("name", ["regnet_y_400mf", "regnet_x_400mf_torchvision"])
def test_torchvision_weights_give_torchvision_logits(name: str) -> None:
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name.removesuffix("_torchvision"))().eval()
    for norm in (module for module in theirs.modules() if isinstance(module, nn.BatchNorm2d)):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            nn.init.uniform_(tensor, 0.5, 1.5)
    ours = build_model(ModelConfig(model=name), 1000).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("norm", ["bn", "ln", "ws_bn", "wn", "pws"])
@pytest.mark.parametrize("name", ["regnet_x_200mf", "regnet_y_200mf"])
def test_a_step_reaches_every_parameter(name: str, norm: str) -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(model=name, norm=norm), 10)
    logits = model(torch.randn(2, 3, 64, 48))
    F.cross_entropy(logits, torch.tensor([1, 2])).backward()
    assert logits.shape == (2, 10)
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert [name for name, p in model.named_parameters() if p.ndim > 1 and not p.grad.any()] == []


def test_hidden_channels_follow_the_entering_ones_or_the_blocks_own() -> None:
    assert REGNETS["regnet_y_400mf"].hidden(32, 48) == 8
    assert REGNETS["regnet_y_400mf_modelzoo"].hidden(32, 48) == 12
    assert REGNETS["regnet_x_400mf"].hidden(32, 48) is None


@pytest.mark.parametrize("name", ["regnet_x_200mf", "regnet_y_200mf"])
def test_attention_takes_the_place_of_squeeze_and_excitation(name: str) -> None:
    with torch.device("meta"):
        model = build_model(ModelConfig(model=name, attention="eca"), 10)
    kinds = [type(module).__name__ for module in model.modules()]
    assert kinds.count("EfficientChannelAttention") == 13
    assert "SqueezeExcitation" not in kinds


def test_zero_gamma_starts_every_branch_at_zero() -> None:
    model = build_model(ModelConfig(model="regnet_x_200mf", zero_gamma=True), 10)
    zero = {name for name, parameter in model.named_parameters() if name.endswith("weight") and not parameter.any()}
    assert len(zero) == 13
    assert all(name.endswith("f.c.1.weight") for name in zero)
