"""Attentions in networks: where each stands, published sizes, any image, refusals, and how they start."""

import pytest
import torch
from torch import nn

from models import build_model
from models.layers.attending import ATTENTIONS
from models.layers.attention import (
    BottleneckAttention,
    ContextMask,
    GlobalContext,
    PooledLinear,
    SpatialGate,
    SqueezeExcitation,
)
from models.layers.normalization import NORMALIZATIONS
from models.layers.selective import SelectiveKernel
from models.resnet import RESNETS, basic
from utils.config import ModelConfig
from utils.errors import UsageError

MODULES = {
    "se": SqueezeExcitation,
    "bam": BottleneckAttention,
    "gc": GlobalContext,
    "sk": SelectiveKernel,
    "sk_paper": SelectiveKernel,
}
RESNET_ATTENTIONS = ("se", "cbam", "bam", "sge", "gc", "srm", "eca", "sk", "sk_paper")

# Parameters that PytorchInsight's own code has, seeds.md 4.5 and golden/models.
COUNTS = {
    ("resnet18", "se"): 11_778_592,
    ("resnet34", "se"): 21_958_868,
    ("resnet50", "se"): 28_088_024,
    ("resnet101", "se"): 49_326_872,
    ("resnet152", "se"): 66_821_848,
    ("resnet18", "sge"): 11_690_536,
    ("resnet34", "sge"): 21_799_720,
    ("resnet50", "sge"): 25_559_080,
    ("resnet101", "sge"): 44_553_384,
    ("resnet152", "sge"): 60_199_208,
    ("resnet18", "cbam"): 11_779_392,
    ("resnet34", "cbam"): 21_960_468,
    ("resnet50", "cbam"): 28_089_624,
    ("resnet101", "cbam"): 49_330_172,
    ("resnet18", "bam"): 11_712_503,
    ("resnet34", "bam"): 21_820_663,
    ("resnet50", "bam"): 25_915_099,
    ("resnet101", "bam"): 44_907_227,
    ("resnet50", "sk"): 26_154_496,
    ("resnet101", "sk"): 45_678_112,
    ("resnet152", "sk"): 61_760_000,
    ("resnet50", "gc"): 26_056_032 + 2_049_000,  # the detection backbone, and a classifier
}


def built(model: str, attention: str, classes: int = 10, **settings: object) -> nn.Module:
    return build_model(ModelConfig(model=model, attention=attention, **settings), classes)


def of_type(model: nn.Module, kind: type[nn.Module]) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, kind)}


@pytest.mark.parametrize(("model", "attention"), COUNTS)
def test_parameter_counts_are_the_ancestors(model: str, attention: str) -> None:
    with torch.device("meta"):
        network = built(model, attention, classes=1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == COUNTS[model, attention]


def test_sk_paper_in_a_resnext_is_the_published_sknet50() -> None:
    with torch.device("meta"):
        network = built("resnext50_32x4d", "sk_paper", classes=1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(27.5e6, abs=0.05e6)


@pytest.mark.parametrize("attention", RESNET_ATTENTIONS)
@pytest.mark.parametrize("model", ["preresnet20", "resnet29_bottleneck", "resnet29_bottleneck-pws"])
def test_any_image_trains_every_parameter(model: str, attention: str) -> None:
    torch.manual_seed(0)
    model, _, norm = model.partition("-")
    if ATTENTIONS[attention].place == "conv3x3" and RESNETS[model].block is basic:
        pytest.skip("has no place there")
    groups = {"attention_groups": 8} if "attention_groups" in ATTENTIONS[attention].settings else {}
    network = built(model, attention, norm=norm or "bn", **groups)
    logits = network(torch.randn(2, 3, 17, 26))
    logits.square().sum().backward()
    assert logits.shape == (2, 10)
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("attention", RESNET_ATTENTIONS)
@pytest.mark.parametrize("model", ["resnet18", "resnet50"])
def test_gains_and_biases_have_one_dimension_and_weights_more(model: str, attention: str) -> None:
    if attention.startswith("sk") and model == "resnet18":
        pytest.skip("has no place there")
    with torch.device("meta"):
        plain, network = build_model(ModelConfig(model=model), 10).state_dict(), built(model, attention)
    norms = (nn.BatchNorm2d, nn.GroupNorm)
    gains = {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, norms)}
    gains |= {name for name in network.state_dict() if attention == "sge" and name.endswith("attention.weight")}
    for name, parameter in network.named_parameters():
        if name not in plain:
            assert (parameter.ndim == 1) == (name in gains or name.endswith("bias")), name


@pytest.mark.parametrize("norm", NORMALIZATIONS)
@pytest.mark.parametrize("attention", ["cbam", "bam", "srm", "sk"])
def test_attentions_with_a_norm_inside_run_with_every_norm(attention: str, norm: str) -> None:
    torch.manual_seed(0)
    groups = {"norm_groups": 8} if "norm_groups" in NORMALIZATIONS[norm].settings else {}
    groups |= {"attention_groups": 8} if attention == "sk" else {}
    network = built("resnet29_bottleneck", attention, norm=norm, **groups)
    logits = network(torch.randn(2, 3, 12, 9))
    assert logits.isfinite().all()


@pytest.mark.parametrize("attention", ["se", "gc"])
@pytest.mark.parametrize("model", [name for name, row in RESNETS.items() if sum(row.depths) < 50])
def test_every_row_has_its_attention_at_the_end_of_every_branch(model: str, attention: str) -> None:
    with torch.device("meta"):
        network = built(model, attention)
    names = of_type(network, MODULES[attention])
    assert len(names) == sum(RESNETS[model].depths)
    assert all(name.endswith(".attention") for name in names)


def test_bam_stands_between_stages() -> None:
    assert list(of_type(built("resnet18", "bam"), BottleneckAttention)) == [f"layer{i}.attention" for i in (1, 2, 3)]


def test_sk_paper_has_grouped_and_dilated_branches_and_at_least_32_channels() -> None:
    first = next(iter(of_type(built("resnet26", "sk_paper"), SelectiveKernel).values()))
    assert [first.conv1.groups, first.conv2.groups] == [32, 32]
    assert [first.conv1.dilation, first.conv2.dilation] == [(1, 1), (2, 2)]
    assert first.fc1.out_channels == 32


def test_reduction_and_groups_are_the_users() -> None:
    assert built("resnet18", "se", attention_reduction=8).layer1[0].attention.fc1.out_channels == 8
    assert built("resnet18", "sge", attention_groups=4).layer1[0].attention.weight.shape == (4,)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"model": "resnet18", "attention": "sk"}, "--attention sk has no effect on resnet18"),
        ({"model": "resnet20", "attention": "sge"}, "--attention-groups 64 does not divide the 16 channels"),
        ({"model": "resnet18", "attention": "eca", "attention_reduction": 8}, "--attention-reduction 8 has no effect"),
        ({"model": "resnet18", "attention": "se", "attention_groups": 8}, "--attention-groups 8 has no effect"),
        ({"model": "resnet18", "attention": "sve"}, "sve"),
    ],
)
def test_what_has_no_place_is_refused_in_a_sentence(settings: dict, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        build_model(ModelConfig(**settings), 10)


def test_linear_layers_of_pooled_channels_start_as_linear_layers_in_resnets() -> None:
    torch.manual_seed(0)
    network = built("resnet26", "se")
    for layer in of_type(network, PooledLinear).values():
        assert layer.weight.abs().max() <= layer.in_channels**-0.5  # torch's; Kaiming's normal has no bound
        assert layer.bias.any()
    torch.manual_seed(0)
    assert not built("regnet_y_200mf", "auto").trunk_output[0][0].f.se.fc1.bias.any()  # torchvision's RegNets


def test_attentions_start_as_their_authors_say() -> None:
    x = torch.randn(2, 64, 5, 7)
    assert torch.equal(built("resnet18", "gc").layer1[0].attention(x), x)
    mask = of_type(built("resnet50", "gc"), ContextMask)["layer4.0.attention.mask"]
    assert mask.weight.std().item() == pytest.approx((2 / 2048) ** 0.5, rel=0.1)
    gate = of_type(built("resnet18", "cbam"), SpatialGate)["layer1.0.attention.spatial"]
    assert torch.equal(gate(x), x / 2)
    torch.testing.assert_close(built("resnet18", "sge").layer1[0].attention(x), x * torch.sigmoid(torch.tensor(1.0)))
    assert torch.equal(built("resnet18", "srm").eval().layer1[0].attention(x), x / 2)
