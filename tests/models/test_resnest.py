"""ResNeSts: published sizes, timm's numbers, split attention against plain convolutions and parts of itself."""

import pytest
import torch
from torch.nn import functional as F

from models import build_model
from models.interop import load_weights, unwrap
from models.layers import Layers
from models.layers.normalization import NORMALIZATIONS
from models.layers.split_attention import SplitAttention, SplitAttentionConv, Splits
from models.resnest import RESNESTS
from utils.config import ModelConfig
from utils.errors import UsageError

# Parameters of ModelZoo.pytorch's, seeds.md 5.3, of timm's smallest, and of the paper's (in millions).
SIZES = {"resnest50": 27_462_120, "resnest14d": 10_611_688, "resnest26d": 17_069_448}
MILLIONS = {"resnest50d": 27.5, "resnest101e": 48.3, "resnest200e": 70.2, "resnest269e": 110.9}
GROUPS = {"gn": 4, "ws": 4, "evonorm_s0": 4}


@pytest.mark.parametrize("name", RESNESTS)
def test_every_row_has_its_published_size(name: str, size) -> None:
    found = size(ModelConfig(model=name))
    if name in SIZES:
        assert found == SIZES[name]
    else:
        assert round(found / 1e6, 1) == MILLIONS[name]


@pytest.mark.parametrize("name", [name for name in RESNESTS if name != "resnest50"])
def test_sizes_are_timms(name: str, size) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        theirs = sum(parameter.numel() for parameter in timm.create_model(name).parameters())
    assert size(ModelConfig(model=name)) == theirs


def test_timms_weights_give_timms_logits(drawn_norms) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = drawn_norms(timm.create_model("resnest14d")).double()
    ours = build_model(ModelConfig(model="resnest14d"), 1000).double().eval()
    load_weights(ours, unwrap(theirs.state_dict(), "resnest14d"))
    images = torch.randn(2, 3, 65, 48, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", NORMALIZATIONS)
@pytest.mark.parametrize("attention", ["split", "split_paper"])
def test_a_step_reaches_every_parameter(attention: str, norm: str, unreached) -> None:
    torch.manual_seed(0)
    settings = {"norm": norm, "norm_groups": GROUPS.get(norm, 32), "attention": attention}
    model = build_model(ModelConfig(model="resnest14d", width=0.25, **settings), 10)
    assert unreached(model) == []
    assert all(p.ndim <= 1 or name.endswith("weight") for name, p in model.named_parameters())


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("authors", [False, True])
def test_a_single_split_is_a_convolution_with_norm_and_activation(authors: bool, stride: int) -> None:
    attention = SplitAttentionConv(4, 6, stride, 2, Splits(hidden=2, radix=1, authors=authors), Layers(ModelConfig()))
    x = torch.randn(2, 4, 6, 7)
    plain = torch.relu(attention.bn0(attention.conv(x)))
    expected = F.avg_pool2d(plain, 3, stride, padding=1) if authors and stride > 1 else plain
    torch.testing.assert_close(attention(x), expected)


def test_groups_know_nothing_of_each_other() -> None:
    torch.manual_seed(0)
    layers = Layers(ModelConfig(norm="none"))
    whole = SplitAttention(8, 2, Splits(hidden=6, radix=3), layers).double()
    halves = [SplitAttention(4, 1, Splits(hidden=3, radix=3), layers).double() for _ in range(2)]
    for i, half in enumerate(halves):
        own = {name: tensor.chunk(2)[i] for name, tensor in whole.state_dict().items()}
        half.load_state_dict(own)
    x = torch.randn(2, 3, 8, 5, 4, dtype=torch.float64)  # (n, splits, c, h, w)
    parts = [half(part.flatten(1, 2)) for half, part in zip(halves, x.chunk(2, dim=2), strict=True)]
    torch.testing.assert_close(whole(x.flatten(1, 2)), torch.cat(parts, 1), rtol=1e-12, atol=1e-12)


def test_equal_splits_are_their_mean_and_weights_sum_to_one() -> None:
    torch.manual_seed(0)
    attention = SplitAttention(8, 1, Splits(hidden=4), Layers(ModelConfig())).double()
    x = torch.randn(3, 8, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(attention(torch.cat([x, x], 1)), x, rtol=1e-12, atol=1e-12)


def test_reduction_and_plain_forms_are_choices(size) -> None:
    assert size(ModelConfig(model="resnest50", attention_reduction=8)) < SIZES["resnest50"]
    assert size(ModelConfig(model="resnet50", attention="split")) == SIZES["resnest50"]
    assert size(ModelConfig(model="resnet50", stem="deep")) == 25_576_264  # timm's resnet50c


def test_a_deep_stem_has_no_place_in_other_families() -> None:
    with pytest.raises(UsageError, match="--stem deep has no place in densenet121"):
        build_model(ModelConfig(model="densenet121", stem="deep"), 10)
