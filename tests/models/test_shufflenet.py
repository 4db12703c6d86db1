"""ShuffleNets: published sizes, torchvision's weights and logits, widths, shared gains, gates."""

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models import build_model
from models.interop import our_name
from models.layers.convolution import WSConv2d
from models.layers.sharing import GlobalGate, PairedBatchNorm2d
from models.shufflenet import SHUFFLENETS, shuffle
from utils.config import ModelConfig
from utils.errors import UsageError

# Parameters: V2, torchvision's documentation and seeds.md 4.5; V1, in millions, the authors' own code.
PUBLISHED_V2 = {
    "shufflenet_v2_x0_5": 1_366_792,
    "shufflenet_v2_x1_0": 2_278_604,
    "shufflenet_v2_x1_5": 3_503_624,
    "shufflenet_v2_x2_0": 7_393_996,
    "shufflenet_v2_x2_0_pytorchinsight": 7_366_536,
}
PUBLISHED_V1 = {("shufflenet_v1_g3", 1.0): 1.9, ("shufflenet_v1_g3", 0.5): 0.7, ("shufflenet_v1_g3", 1.5): 3.4}
PUBLISHED_V1 |= {("shufflenet_v1_g3", 2.0): 5.4, ("shufflenet_v1_g8", 1.0): 2.4}
# Millions of multiply-adds, tables 1 and 2 of arXiv 1707.01083.
COMPLEXITY_V1 = {("g1", 1.0): 143, ("g2", 1.0): 140, ("g3", 1.0): 137, ("g4", 1.0): 133, ("g8", 1.0): 137}
COMPLEXITY_V1 |= {("g3", 0.5): 38, ("g8", 0.5): 40}
# seeds.md 4.5; the settings of the PytorchInsight ancestor's forms.
FORMS = {"se": ({"attention": "se"}, 1_397_428), "bng2": ({"norm": "bng2"}, 1_362_816)}
FORMS |= {"gl4gbn": ({"attention": "gl"}, 1_367_656), "ws": ({"norm": "ws_bn"}, 1_366_792)}

SMALLEST = ("shufflenet_v1_g1", "shufflenet_v1_g3", "shufflenet_v2_x0_5")


def on_meta(config: ModelConfig) -> nn.Module:
    with torch.device("meta"):
        return build_model(config, 1000)


def parameters(config: ModelConfig) -> int:
    return sum(parameter.numel() for parameter in on_meta(config).parameters())


@pytest.mark.parametrize("name", PUBLISHED_V2)
def test_v2_has_the_published_sizes(name: str) -> None:
    assert parameters(ModelConfig(model=name)) == PUBLISHED_V2[name]


@pytest.mark.parametrize("form", FORMS)
def test_forms_have_the_ancestors_sizes(form: str) -> None:
    settings, count = FORMS[form]
    assert parameters(ModelConfig(model="shufflenet_v2_x0_5", **settings)) == count


@pytest.mark.parametrize(("name", "width"), PUBLISHED_V1)
def test_v1_has_the_published_sizes(name: str, width: float) -> None:
    assert abs(parameters(ModelConfig(model=name, width=width)) / 1e6 - PUBLISHED_V1[name, width]) < 0.06


@pytest.mark.parametrize(("groups", "width"), COMPLEXITY_V1)
def test_v1_has_the_published_complexity(groups: str, width: float) -> None:
    model = on_meta(ModelConfig(model=f"shufflenet_v1_{groups}", width=width)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, 224, 224, device="meta"))
    assert abs(counter.get_total_flops() / 2e6 - COMPLEXITY_V1[groups, width]) < 2


def test_every_network_is_published() -> None:
    assert {name for name in SHUFFLENETS if "_v2_" in name} == set(PUBLISHED_V2)
    assert {name.split("_")[-1] for name in SHUFFLENETS if "_v1_" in name} == {g for g, _ in COMPLEXITY_V1}


@pytest.mark.parametrize("size", ["x0_5", "x2_0"])
def test_torchvision_weights_give_torchvision_logits(size: str, drawn_norms: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    theirs = drawn_norms(getattr(torchvision.models, f"shufflenet_v2_{size}")())
    ours = build_model(ModelConfig(model=f"shufflenet_v2_{size}"), 1000).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("norm", ["bn", "bng2", "ws_bn", "ln", "wn", "pws", "evonorm_b0", "frn"])
@pytest.mark.parametrize("name", SMALLEST)
def test_a_step_reaches_every_parameter(name: str, norm: str, unreached: Callable[[nn.Module], list[str]]) -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(model=name, norm=norm), 10)
    assert unreached(model) == []
    assert all(parameter.ndim == 1 for name, parameter in model.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("attention", ["se", "gl", "eca"])
@pytest.mark.parametrize("name", SMALLEST)
def test_attentions_have_a_place(name: str, attention: str, unreached: Callable[[nn.Module], list[str]]) -> None:
    torch.manual_seed(0)
    assert unreached(build_model(ModelConfig(model=name, attention=attention), 10)) == []


def test_weight_standardization_takes_depthwise_filters_too() -> None:
    model = on_meta(ModelConfig(model="shufflenet_v2_x0_5", norm="ws_bn"))
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert all(isinstance(module, WSConv2d) for module in convolutions)
    assert any(module.groups > 1 for module in convolutions)


def test_every_norm_of_bng2_shares_its_gains() -> None:
    model = on_meta(ModelConfig(model="shufflenet_v2_x1_0", norm="bng2"))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 56  # seeds.md 4.3
    assert all(isinstance(norm, PairedBatchNorm2d) and norm.weight.shape == (norm.num_features // 2,) for norm in norms)


def test_paired_batch_norm_is_batch_norm_with_gains_twice() -> None:
    torch.manual_seed(0)
    paired, plain, images = PairedBatchNorm2d(6).double(), nn.BatchNorm2d(6).double(), torch.randn(4, 6, 3, 3).double()
    nn.init.normal_(paired.weight)
    plain.weight.data = paired.weight.data.repeat_interleave(2)
    assert torch.equal(paired(images), plain(images))
    assert torch.equal(paired.running_var, plain.running_var)
    assert torch.equal(paired.eval()(images), plain.eval()(images))


def test_pairs_need_an_even_number_of_channels() -> None:
    with pytest.raises(UsageError, match="pairs of channels"):
        build_model(ModelConfig(model="shufflenet_v1_g3", norm="bng2", width=0.25), 10)


def test_gates_share_weights_of_channels_that_are_a_quarter_apart() -> None:
    gate = GlobalGate(8, 4, nn.Identity()).double()
    assert torch.allclose(gate(torch.ones(1, 8, 2, 2).double()), torch.tensor(1.0).double().sigmoid())  # bias 1
    gate.weight.data = torch.tensor([0.0, 50.0]).double()
    gates = gate(torch.ones(1, 8, 1, 1).double()).flatten()
    assert torch.equal(gates[0::2], gates[0].expand(4)) and torch.equal(gates[1::2], gates[1].expand(4))
    assert gates[1] > 0.999 > gates[0]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("module.conv1.0.weight", "conv1.0.weight"),
        ("module.features.0.banch1.2.weight", "stage2.0.branch1.2.weight"),
        ("module.features.4.banch2.0.weight", "stage3.0.branch2.0.weight"),
        ("module.features.15.se.fc.2.bias", "stage4.3.attention.fc2.bias"),
        ("module.features.11.gl.bn.running_mean", "stage3.7.attention.bn.running_mean"),
        ("module.conv_last.1.weight", "conv5.1.weight"),
        ("module.classifier.0.weight", "fc.weight"),
    ],
)
def test_names_of_the_ancestor_become_ours(theirs: str, ours: str) -> None:
    assert our_name(theirs, "shufflenet_v2_x1_0") == ours
    assert our_name(ours, "shufflenet_v2_x1_0") == ours


def test_shuffle_deals_channels_out() -> None:
    assert shuffle(torch.arange(6).view(1, 6, 1, 1), 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]


def test_zero_gamma_zeroes_the_branches_that_are_added() -> None:
    model = build_model(ModelConfig(model="shufflenet_v1_g1", zero_gamma=True), 10)
    zero = {name for name, parameter in model.named_parameters() if name.endswith("weight") and not parameter.any()}
    assert len(zero) == 13
    with pytest.raises(UsageError, match="no residual branch"):
        build_model(ModelConfig(model="shufflenet_v2_x0_5", zero_gamma=True), 10)
