"""Octave ResNets: sizes, octave convolutions against plain ones, what has no place with two frequencies."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import build_model
from models.folding import fold
from models.interop import unwrap
from models.layers import Layers
from models.layers.normalization import NORMALIZATIONS
from models.layers.octave import Frequencies, Octave, OctaveConv, divided
from models.octave import OCTAVES
from utils.config import ModelConfig
from utils.errors import UsageError

# Parameters: with any alpha those of the ResNet (seeds.md 5.4); torchvision's ResNets and ResNeXts.
SIZES = {
    "oct_resnet26": 15_995_176,
    "oct_resnet50": 25_557_032,
    "oct_resnet101": 44_549_160,
    "oct_resnet152": 60_192_808,
    "oct_resnet50v2": 25_545_384,
    "oct_resnet50_re": 25_557_032,
    "oct_resnet101_re": 44_549_160,
    "oct_resnet152_re": 60_192_808,
}
PLAIN = {"oct_resnext50_32x4d_re": "resnext50_32x4d", "oct_resnext101_32x8d_re": "resnext101_32x8d"}
GROUPS = {"gn": 4, "ws": 4, "evonorm_s0": 4}


def small(**settings: object) -> ModelConfig:
    """The smallest row, with 16 planes, of which 4 are low."""
    return ModelConfig(**{"model": "oct_resnet26", "width": 0.25, "octave_alpha": 0.25, **settings})


def drawn(channels: int | Frequencies, height: int, width: int) -> torch.Tensor | Octave:
    """A map of either kind, in float64."""
    high, low = channels if isinstance(channels, Frequencies) else (channels, 0)
    x = torch.randn(2, high, height, width, dtype=torch.float64)
    return Octave(x, torch.randn(2, low, height // 2, width // 2, dtype=torch.float64)) if low else x


@pytest.mark.parametrize("name", OCTAVES)
def test_every_row_has_its_published_size(name: str, size) -> None:
    found = size(ModelConfig(model=name))
    assert found == (SIZES[name] if name in SIZES else size(ModelConfig(model=PLAIN[name])))


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 0.75])
def test_alpha_moves_weights_and_adds_none(alpha: float, size) -> None:
    assert size(ModelConfig(model="oct_resnet26", octave_alpha=alpha)) == SIZES["oct_resnet26"]


def test_low_channels_are_rounded_down_and_none_is_lost() -> None:
    assert divided(64, 0.125) == Frequencies(56, 8)
    assert divided(10, 0.25) == Frequencies(8, 2)
    assert divided(64, 0.0) == 64


def test_the_second_form_without_low_channels_is_the_resnet() -> None:
    torch.manual_seed(0)
    plain = build_model(ModelConfig(model="resnet50", width=0.25), 10).eval()
    octave = build_model(ModelConfig(model="oct_resnet50_re", width=0.25, octave_alpha=0), 10).eval()
    assert list(octave.state_dict()) == list(plain.state_dict())
    octave.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 65, 48)
    with torch.no_grad():
        assert torch.equal(octave(images), plain(images))


@pytest.mark.parametrize("c_out", [Frequencies(6, 2), 8], ids=str)
@pytest.mark.parametrize("c_in", [Frequencies(3, 5), 4], ids=str)
def test_a_pointwise_octave_is_a_plain_one_at_each_resolution(c_in, c_out) -> None:
    """Averaging and repeating commute with a 1x1 convolution, so each output is one of all channels, brought to it."""
    torch.manual_seed(0)
    conv, x = OctaveConv(c_in, c_out, 1, Layers(ModelConfig())).double(), drawn(c_in, 6, 8)
    high, low = x if isinstance(x, Octave) else (x, x[:, :0, ::2, ::2])
    sources = {"high": torch.cat([high, low.repeat_interleave(2, 2).repeat_interleave(2, 3)], 1)}
    sources["low"] = torch.cat([F.avg_pool2d(high, 2), low], 1)
    outputs = conv(x)._asdict() if isinstance(c_out, Frequencies) else {"high": conv(x)}
    for name, output in outputs.items():
        kernels = [module.weight for path, module in conv.named_children() if path.endswith(f"_{name}")]
        torch.testing.assert_close(output, F.conv2d(sources[name], torch.cat(kernels, 1)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (6, 3)], ids=str)
def test_a_stride_is_an_average_of_both_inputs(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    channels = Frequencies(6, 2)
    strided = OctaveConv(channels, channels, 3, Layers(ModelConfig()), stride=2).double()
    x = drawn(channels, *size)
    if min(size) // 4:
        found, high = strided(x), F.avg_pool2d(x.high, 2)
        torch.testing.assert_close(found.high, strided.high_high(high) + strided.low_high(x.low))
        low = strided.low_low(F.avg_pool2d(x.low, 2)) + strided.high_low(F.avg_pool2d(high, 2))
        torch.testing.assert_close(found.low, low)
    plain = OctaveConv(channels, channels, 3, Layers(ModelConfig())).double()
    assert [part.shape[2:] for part in plain(x)] == [size, (size[0] // 2, size[1] // 2)]


def test_depthwise_channels_stay_in_their_frequency() -> None:
    conv = OctaveConv(Frequencies(6, 2), Frequencies(6, 2), 3, Layers(ModelConfig()), groups=8)
    assert {name: tuple(module.weight.shape) for name, module in conv.named_children()} == {
        "high_high": (6, 1, 3, 3),
        "low_low": (2, 1, 3, 3),
    }


@pytest.mark.parametrize("norm", NORMALIZATIONS)
@pytest.mark.parametrize("name", ["oct_resnet26", "oct_resnet50v2", "oct_resnet50_re"])
def test_a_step_reaches_every_parameter(name: str, norm: str, unreached) -> None:
    torch.manual_seed(0)
    model = build_model(small(model=name, norm=norm, norm_groups=GROUPS.get(norm, 32)), 10)
    assert unreached(model) == []


@pytest.mark.parametrize("order", ["post", "pre", "pre-raw", "relu-first"])
def test_every_order_has_its_place(order: str, unreached) -> None:
    torch.manual_seed(0)
    model = build_model(small(block_order=order), 10)
    assert unreached(model) == []
    assert isinstance(model.bn_last, nn.BatchNorm2d) == order.startswith("pre")


@pytest.mark.parametrize("attention", ["se", "eca", "bam"])
def test_each_frequency_has_attentions_of_its_own(attention: str, unreached) -> None:
    torch.manual_seed(0)
    reduction = None if attention == "eca" else 2  # a single hidden channel may be silent
    model = build_model(small(attention=attention, attention_reduction=reduction, act="prelu"), 10)
    where = model.layer1.attention if attention == "bam" else model.layer1[0].attention
    assert type(where.high) is type(where.low)
    assert unreached(model) == []


def test_merged_batch_norms_change_nothing(drawn_norms) -> None:
    torch.manual_seed(0)
    model, images = drawn_norms(build_model(small(norm="ws_bn"), 10)).double(), torch.randn(2, 3, 64, 64).double()
    with torch.no_grad():
        torch.testing.assert_close(fold(model, images, "bn")(images), model(images), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"attention": "sk"}, "--attention sk has no effect"),
        ({"attention": "split"}, "--attention split has no effect"),
        ({"downsampling": "blur"}, "--downsampling blur has no effect"),
        ({"avg_down": True}, "--avg-down True has no effect"),
        ({"deformable": True}, "--deformable True has no effect"),
        ({"model": "oct_resnext50_32x4d_re", "width": 1.0, "octave_alpha": 0.125}, "32 groups 112 and 112 channels"),
        ({"model": "resnet50"}, "--octave-alpha 0.25 has no effect on resnet50"),
    ],
    ids=str,
)
def test_what_has_no_place_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build_model(small(**settings), 10)


def test_stages_of_two_frequencies_are_no_backbone() -> None:
    images = torch.randn(1, 3, 64, 64)
    outputs = build_model(small(), 10, out_indices=(0, 4))(images)
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {
        "act1": (1, 16, 32, 32),
        "layer4": (1, 512, 2, 2),
    }
    with pytest.raises(UsageError, match="layer1 of oct_resnet26 gives maps of two frequencies"):
        build_model(small(), 10, out_indices=(1, 2, 3, 4))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        # With a low part of the first norm: norms behind convolutions; the last stage has one frequency.
        (["layer1.0.bn1.l_bn.weight", "layer4.0.bn1.h_bn.bias"], ["layer1.0.bn1.low.weight", "layer4.0.bn1.bias"]),
        # Norms before convolutions: the first one has one frequency, and the last stage's first two.
        (
            ["layer4.0.bn1.l_bn.weight", "layer4.0.bn2.h_bn.weight", "layer1.0.bn1.h_bn.weight"],
            ["layer4.0.bn1.low.weight", "layer4.0.bn2.weight", "layer1.0.bn1.weight"],
        ),
        # Nothing is low.
        (
            ["layer1.0.bn1.h_bn.weight", "layer1.0.conv1.W_HH.weight"],
            ["layer1.0.bn1.weight", "layer1.0.conv1.high_high.weight"],
        ),
    ],
)
def test_a_files_own_names_tell_which_norms_have_one_frequency(theirs: list[str], ours: list[str]) -> None:
    assert list(unwrap({name: torch.zeros(1) for name in theirs}, "oct_resnet50")) == ours
