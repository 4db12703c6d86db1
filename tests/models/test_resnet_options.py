"""Options of ResNets: what does the strides, where they sit, deformable convolutions. Formulas, sizes, refusals."""

import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from models import build_model, set_data_gains, wants_data_gains
from models.interop import load_weights, unwrap
from models.layers.convolution import folded
from models.layers.deformable import RATE, DeformableConv2d
from models.layers.normalization import NORMALIZATIONS
from models.layers.pooling import BlurPool2d, LocalImportancePool2d, bottleneck_logit, simple_logit
from models.residual import ORDERS
from utils.config import ModelConfig
from utils.errors import UsageError

OPTIONS = [
    {"downsampling": "blur"},
    {"downsampling": "lip"},
    {"avg_down": True},
    {"avg_down": True, "downsampling": "blur"},
    {"caffe_stride": True},
    {"deformable": True},
    {"deformable": True, "downsampling": "lip", "caffe_stride": True, "avg_down": True},
]
SMALL = "resnet29_bottleneck"


def small(**settings: object) -> ModelConfig:
    groups = {"norm_groups": 8} if settings.get("norm") in ("gn", "ws", "evonorm_s0") else {}
    return ModelConfig(model=SMALL, **groups, **settings)


def label(options: dict[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items())


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (6, 6), (7, 4)], ids=str)
def test_blur_is_the_binomial_filter_at_every_second_position(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    line = torch.tensor([1.0, 2, 1], dtype=torch.float64) / 4
    filters = torch.outer(line, line).expand(3, 1, 3, 3)
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect" if min(size) > 1 else "replicate")
    expected = F.conv2d(padded, filters, stride=2, groups=3)
    torch.testing.assert_close(BlurPool2d()(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(6, 6), (7, 4)], ids=str)
@pytest.mark.parametrize("logit", [simple_logit, bottleneck_logit])
def test_local_importance_pooling_is_a_mean_weighed_by_exponents(logit, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    pool = LocalImportancePool2d(logit(4)).double()
    for parameter in pool.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    importance = torch.exp(12 * pool.logit(x).sigmoid())
    found = pool(x)
    assert found.shape[2:] == (-(-size[0] // 2), -(-size[1] // 2))
    for row in range(found.shape[2]):
        for column in range(found.shape[3]):
            rows, columns = (slice(max(2 * at - 1, 0), 2 * at + 2) for at in (row, column))
            weights = importance[:, :, rows, columns]
            mean = (x[:, :, rows, columns] * weights).sum((2, 3)) / weights.sum((2, 3))
            torch.testing.assert_close(found[:, :, row, column], mean, rtol=1e-10, atol=1e-10)


def test_local_importance_pooling_starts_as_a_plain_mean_in_every_network() -> None:
    model = build_model(ModelConfig(model="resnet50", downsampling="lip"), 10)
    pools = [module for module in model.modules() if isinstance(module, LocalImportancePool2d)]
    assert len(pools) == 7  # the stem's, and two in each of three blocks
    x = torch.randn(1, 64, 5, 5)
    plain = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
    torch.testing.assert_close(pools[0](x), plain, rtol=1e-5, atol=1e-6)


def deformable_conv(kind: type[nn.Conv2d] = DeformableConv2d, **options: int) -> DeformableConv2d:
    torch.manual_seed(0)
    return kind(4, 6, 3, padding=1, bias=False, **options).double()


def test_deformable_convolution_starts_as_half_the_plain_one() -> None:
    conv = deformable_conv(stride=2, groups=2)
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    plain = F.conv2d(x, conv.weight, stride=2, padding=1, groups=2) / 2
    torch.testing.assert_close(conv(x), plain, rtol=1e-12, atol=1e-12)


def test_deformable_convolution_looks_where_its_offsets_say() -> None:
    conv = deformable_conv()
    with torch.no_grad():
        conv.sampling.bias[:18:2] = 1  # down by a row
        conv.sampling.bias[18:] = 100.0
    x = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    down = F.pad(x, (0, 0, 0, 1))[:, :, 1:]
    expected = F.conv2d(down, conv.weight, padding=1)[:, :, 1:]  # above the first row a tap sees x, not padding
    torch.testing.assert_close(conv(x)[:, :, 1:], expected, rtol=1e-12, atol=1e-12)


def test_offsets_learn_at_a_tenth_of_the_rate() -> None:
    conv = deformable_conv()
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        conv.sampling.bias.fill_(0.3)
    conv(x).square().sum().backward()
    where = F.conv2d(x, conv.sampling.weight, conv.sampling.bias, padding=1).detach().requires_grad_()
    offsets, mask = where[:, :18], where[:, 18:].sigmoid()
    torchvision.ops.deform_conv2d(x, offsets, conv.weight, padding=1, mask=mask).square().sum().backward()
    torch.testing.assert_close(conv.sampling.bias.grad, RATE * where.grad.sum((0, 2, 3)))


def test_deformable_convolutions_train_in_bfloat16() -> None:
    model = build_model(small(deformable=True), 10)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(2, 3, 16, 16))
    logits.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_deformable_convolutions_stand_in_all_stages_but_the_first() -> None:
    with torch.device("meta"):
        model = build_model(ModelConfig(model="resnet50", deformable=True), 1000)
    found = [name for name, module in model.named_modules() if isinstance(module, DeformableConv2d)]
    assert found == [f"layer{i}.{j}.conv2" for i, depth in ((2, 4), (3, 6), (4, 3)) for j in range(depth)]
    extra = sum(parameter.numel() for name, parameter in model.named_parameters() if ".sampling." in name)
    assert extra == sum(depth * 27 * (9 * planes + 1) for planes, depth in ((128, 4), (256, 6), (512, 3)))
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_557_032 + extra


@pytest.mark.parametrize("norm", ["ws_bn", "wn", "pws"])
def test_a_folded_deformable_network_answers_as_before(norm: str) -> None:
    torch.manual_seed(0)
    model = build_model(small(norm=norm, deformable=True), 10).double().eval()
    for name, parameter in model.named_parameters():
        if ".sampling." in name:
            nn.init.normal_(parameter, std=0.1)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(folded(model)(images), model(images), rtol=1e-9, atol=1e-9)


def strides(block: nn.Module) -> list[int]:
    return [block.get_submodule(name).stride[0] for name in ("conv1", "conv2", "conv3", "downsample.0")]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 2, 1, 2]),
        ({"caffe_stride": True}, [2, 1, 1, 2]),
        ({"avg_down": True}, [1, 2, 1, 1]),
        ({"downsampling": "blur"}, [1, 1, 1, 1]),
    ],
    ids=str,
)
@pytest.mark.parametrize("order", ORDERS)
def test_strides_sit_where_the_options_say(options: dict[str, object], expected: list[int], order: str) -> None:
    model = build_model(small(block_order=order, **options), 10)
    assert strides(model.layer2[0]) == expected
    assert strides(model.layer1[0]) == [1, 1, 1, 1]


def test_a_pool_stands_behind_the_activation_after_the_convolution_that_had_the_stride() -> None:
    orders = {order: build_model(small(downsampling="blur", block_order=order), 10).layer2[0] for order in ORDERS}
    for order, block in orders.items():
        names = [*block.opening, *block.branch]
        assert names[names.index("pool3") - 1] == ("act3" if order.startswith("pre") else "act2")
        assert names[names.index("pool3") + 1] == "conv3"
        assert sum(name.startswith("pool") for name in names) == 1


def test_average_pooling_in_the_shortcut_is_resnet_d() -> None:
    torch.manual_seed(0)
    block = build_model(small(avg_down=True, norm="none"), 10).layer2[0].double()
    nn.init.zeros_(block.conv3.weight)
    x = torch.randn(2, 64, 6, 8, dtype=torch.float64)
    projected = F.conv2d(F.avg_pool2d(x, 2), block.downsample.get_submodule("0").weight)
    torch.testing.assert_close(block(x), projected.relu(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS, ids=label)
def test_odd_sizes_meet_again_at_the_addition(options: dict[str, object]) -> None:
    model = build_model(small(**options), 10).eval()
    assert model(torch.randn(1, 3, 33, 21)).shape == (1, 10)


@pytest.mark.parametrize("options", [options for options in OPTIONS if len(options) == 1], ids=label)
@pytest.mark.parametrize("norm", NORMALIZATIONS)
def test_every_norm_trains_all_parameters(options: dict[str, object], norm: str) -> None:
    torch.manual_seed(0)
    model = build_model(small(norm=norm, **options), 10)
    logits = model(torch.randn(2, 3, 16, 16))
    F.cross_entropy(logits, torch.tensor([1, 2])).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    idle = [name for name, p in model.named_parameters() if p.ndim > 1 and not p.grad.any() and "logit" not in name]
    assert not idle  # the first convolutions of LIP's logits wait for the last, which starts at zero


@pytest.mark.parametrize("options", OPTIONS, ids=label)
def test_gains_and_biases_have_one_dimension_and_weights_more(options: dict[str, object]) -> None:
    with torch.device("meta"):
        model = build_model(ModelConfig(model="resnet50", **options), 10)
    for name, parameter in model.named_parameters():
        module = model.get_submodule(name.rpartition(".")[0])
        is_weight = name.endswith("weight") and isinstance(module, (nn.Conv2d, nn.Linear))
        assert (parameter.ndim > 1) == is_weight, name


@pytest.mark.parametrize("options", OPTIONS, ids=label)
def test_state_round_trip_and_channels_last_give_the_same_logits(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = build_model(small(stem="imagenet", **options), 10).double().eval()
    for name, parameter in model.named_parameters():
        if ".sampling." in name or ".logit." in name:
            nn.init.normal_(parameter, std=0.1)
    images = torch.randn(2, 3, 40, 48, dtype=torch.float64)
    logits = model(images)
    other = build_model(small(stem="imagenet", **options), 10).double().eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(images), logits)
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    found = other(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, logits, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{"avg_down": True}, {"downsampling": "blur"}, {"caffe_stride": True}], ids=label)
def test_options_without_parameters_keep_torchvisions_names(options: dict[str, object]) -> None:
    with torch.device("meta"):
        ours = build_model(ModelConfig(model="resnet50", **options), 1000).state_dict()
        theirs = torchvision.models.resnet50().state_dict()
    assert [(name, value.shape) for name, value in ours.items()] == [(name, v.shape) for name, v in theirs.items()]


@pytest.mark.parametrize("options", OPTIONS, ids=label)
def test_pws_gains_start_from_data(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = build_model(small(norm="pws", **options), 10)
    assert wants_data_gains(model)
    images = torch.randn(4, 3, 16, 16)
    set_data_gains(model, images)
    variances: list[float] = []

    def see(conv: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        variances.append(output.var().item())

    for name in ("layer2.0.conv1", "layer2.0.downsample.0"):
        model.get_submodule(name).register_forward_hook(see)
    model.train()(images)
    assert variances == pytest.approx([2.0, 2.0], rel=1e-4)


REFUSED = [
    (ModelConfig(model="resnet18", caffe_stride=True), r"--caffe-stride True has no effect on resnet18"),
    (ModelConfig(model="resnet18", deformable=True), r"--deformable True has no effect on resnet18"),
    (ModelConfig(attention="sk", deformable=True), r"--deformable True has no effect"),
    (ModelConfig(model="oct_resnet26", downsampling="blur"), r"--downsampling blur has no effect on oct_resnet26"),
    (ModelConfig(model="resnest14d", avg_down=True), r"--avg-down True has no effect on resnest14d"),
    (ModelConfig(model="oct_resnet26", avg_down=True), r"--avg-down True has no effect on oct_resnet26"),
    (ModelConfig(model="oct_resnet50_re", deformable=True), r"--deformable True has no effect on oct_resnet50_re"),
    (ModelConfig(model="regnet_x_200mf", avg_down=True), r"--avg-down True has no effect on regnet_x_200mf"),
    (ModelConfig(model="regnet_x_200mf", downsampling="lip"), r"--downsampling lip has no effect on regnet_x_200mf"),
]


@pytest.mark.parametrize(("config", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_an_option_without_a_place_is_refused(config: ModelConfig, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_model(config, 10)


@pytest.mark.parametrize("name", ["resnext50_32x4d", "resnet50v2", "preresnet29_bottleneck", "resnext29_8x64d"])
def test_every_option_has_its_place_in_other_resnets_of_bottlenecks(name: str) -> None:
    for options in OPTIONS:
        with torch.device("meta"):
            model = build_model(ModelConfig(model=name, **options), 10).eval()
        assert model(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 10)


TIMM = [
    ("resnet18d", ModelConfig(model="resnet18", stem="deep", avg_down=True)),
    ("resnet26d", ModelConfig(model="resnet26", stem="deep", avg_down=True)),
    ("resnetblur50d", ModelConfig(model="resnet50", stem="deep", avg_down=True, downsampling="blur")),
]


@pytest.mark.parametrize(("theirs", "config"), TIMM, ids=[name for name, _ in TIMM])
def test_timm_networks_with_these_options_give_their_logits(theirs: str, config: ModelConfig, drawn_norms) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    reference = drawn_norms(timm.create_model(theirs, num_classes=10)).double()
    model = build_model(config, 10).double().eval()
    load_weights(model, unwrap(reference.state_dict(), config.model))
    images = torch.randn(2, 3, 65, 48, dtype=torch.float64)
    torch.testing.assert_close(model(images), reference(images), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("theirs", ["_offset.", ".conv_offset."])
def test_offsets_of_mmdetections_files_are_read(theirs: str) -> None:
    weights = build_model(small(deformable=True), 10).state_dict()
    renamed = {name.replace(".sampling.", theirs): value for name, value in weights.items()}
    assert renamed.keys() != weights.keys()
    assert unwrap(renamed, SMALL).keys() == weights.keys()


@pytest.mark.parametrize("norm", ["bn", "pws"])
def test_files_that_count_the_pooling_are_read(norm: str) -> None:
    """PWSConv's, whose first stage does not pool."""
    config = ModelConfig(model="resnet18", norm=norm, avg_down=True)
    weights = build_model(config, 10).state_dict()
    counted = {}
    for name, value in weights.items():
        head, cut, tail = name.partition(".downsample.")
        pooled = cut and not name.startswith("layer1")
        counted[f"backbone.{head}.downsample.{int(tail[0]) + 1}{tail[1:]}" if pooled else name] = value
    read = unwrap({"state_dict": counted}, "resnet18")
    assert counted.keys() != weights.keys()
    assert {name: value.shape for name, value in read.items()} == {name: v.shape for name, v in weights.items()}
    assert unwrap(weights, "resnet18").keys() == weights.keys()
