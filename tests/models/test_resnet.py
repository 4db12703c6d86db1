"""ResNets: torchvision's weights and logits, parameter counts, the block orders, every norm."""

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from models import build_model, model_names
from models.layers import Layers
from models.layers.normalization import NORMALIZATIONS, Normalization
from models.residual import ORDERS
from models.resnet import RESNETS, ResNetShape, basic, bottleneck, cifar, stage
from utils.config import ModelConfig

TORCHVISION = [name for name in RESNETS if hasattr(torchvision.models, name)]

# seeds.md 2.2, 3.1, 3.3, 5.2, 6: trained parameters as the ancestors' own code has them.
COUNTS = [
    (ModelConfig(model="resnet18"), 1000, 11_689_512),
    (ModelConfig(model="resnet34"), 1000, 21_797_672),
    (ModelConfig(model="resnet50"), 1000, 25_557_032),
    (ModelConfig(model="resnet101"), 1000, 44_549_160),
    (ModelConfig(model="resnet152"), 1000, 60_192_808),
    (ModelConfig(model="resnext50_32x4d"), 1000, 25_028_904),
    (ModelConfig(model="resnext101_32x8d"), 1000, 88_791_336),
    (ModelConfig(model="resnext101_32x4d", norm="ws"), 1000, 44_177_704),
    (ModelConfig(model="resnext152_32x4d", norm="ws"), 1000, 59_951_400),
    (ModelConfig(model="resnet18v2"), 1000, 11_687_848),
    (ModelConfig(model="resnet34v2"), 1000, 21_796_008),
    (ModelConfig(model="resnet50v2"), 1000, 25_549_480),
    (ModelConfig(model="resnet101v2"), 1000, 44_541_608),
    (ModelConfig(model="resnet50", block_order="relu-first"), 1000, 25_557_032),
    (ModelConfig(model="resnet50", norm="pws"), 1000, 25_561_256),
    (ModelConfig(model="resnet34", norm="pws", stem="small"), 10, 21_283_274),
    (ModelConfig(model="resnet18", stem="small"), 10, 11_173_962),
    (ModelConfig(model="resnet18", stem="small", norm="in"), 10, 11_164_362),
    (ModelConfig(model="resnet50", stem="small", norm="none"), 10, 23_467_722),
    (ModelConfig(model="resnext50_32x4d", stem="small"), 10, 22_992_714),
    (ModelConfig(model="resnet20"), 10, 272_474),
    (ModelConfig(model="resnet110"), 10, 1_730_714),
    (ModelConfig(model="resnet1202"), 10, 19_424_026),
    (ModelConfig(model="resnet32"), 10, 466_906),
    (ModelConfig(model="resnet44"), 10, 661_338),
    (ModelConfig(model="resnet56"), 10, 855_770),
    (ModelConfig(model="resnet164_bottleneck"), 10, 1_704_154),
    (ModelConfig(model="preresnet20"), 10, 272_282),
    (ModelConfig(model="preresnet110"), 10, 1_730_522),
    (ModelConfig(model="preresnet164_bottleneck"), 10, 1_703_258),
    (ModelConfig(model="wrn16_2"), 10, 691_674),
    (ModelConfig(model="wrn28_10"), 10, 36_479_194),
    (ModelConfig(model="wrn40_4"), 10, 8_949_210),  # 8.9M in arXiv 1605.07146, as wrn16_8 11.0M and wrn22_8 17.2M
    (ModelConfig(model="wrn16_8"), 10, 10_961_370),
    (ModelConfig(model="wrn22_8"), 10, 17_158_106),
    (ModelConfig(model="resnext29_8x64d"), 10, 34_426_698),
    (ModelConfig(model="resnext29_16x64d"), 10, 68_155_210),
    (ModelConfig(model="resnet50", norm="evonorm_b0"), 1000, 25_572_264),
]


def few_groups(norm: str, groups: int) -> dict[str, int]:
    """The setting of a norm that counts groups; nothing for others."""
    return {"norm_groups": groups} if "norm_groups" in NORMALIZATIONS[norm].settings else {}


def every_combination() -> list[ModelConfig]:
    return [
        ModelConfig(model="resnet20", norm=norm, block_order=order, **few_groups(norm, 8))
        for norm in NORMALIZATIONS
        for order in ORDERS
    ]


def label(config: ModelConfig) -> str:
    return f"{config.model}-{config.norm}-{config.block_order}-{config.stem}"


def randomize_norms(model: nn.Module) -> None:
    """Running statistics and gains away from zero and one, so that nothing is hidden."""
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            nn.init.uniform_(tensor, 0.5, 1.5)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_torchvision_weights_give_torchvision_logits(name: str) -> None:
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)().eval()
    randomize_norms(theirs)
    ours = build_model(ModelConfig(model=name), 1000).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("name", TORCHVISION)
def test_state_dict_has_torchvision_names_and_shapes_in_order(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = build_model(ModelConfig(model=name), 1000), getattr(torchvision.models, name)()
    shapes = [[(key, value.shape) for key, value in model.state_dict().items()] for model in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_torchvision_nets_are_covered() -> None:
    assert len(TORCHVISION) == 10


def test_same_seed_gives_torchvision_start() -> None:
    torch.manual_seed(3)
    theirs = torchvision.models.resnet18(zero_init_residual=True).state_dict()
    torch.manual_seed(3)
    ours = build_model(ModelConfig(model="resnet18", zero_gamma=True), 1000).state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


@pytest.mark.parametrize(("config", "classes", "count"), COUNTS, ids=[label(config) for config, _, _ in COUNTS])
def test_parameter_counts_are_the_ancestors(config: ModelConfig, classes: int, count: int) -> None:
    with torch.device("meta"):
        model = build_model(config, classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize("config", every_combination(), ids=label)
def test_every_norm_and_order_trains_all_its_parameters(config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = build_model(config, 10)
    logits = model(torch.randn(2, 3, 16, 16))
    F.cross_entropy(logits, torch.tensor([1, 2])).backward()
    assert logits.shape == (2, 10)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(p.grad.abs().sum() > 0 for name, p in model.named_parameters() if name.endswith("conv1.weight"))


@pytest.mark.parametrize("norm", NORMALIZATIONS)
@pytest.mark.parametrize("model", ["resnet18", "resnext50_32x4d", "resnet50v2", "wide_resnet50_2", "resnet20"])
def test_gains_and_biases_have_one_dimension_and_weights_more(model: str, norm: str) -> None:
    with torch.device("meta"):
        network = build_model(ModelConfig(model=model, norm=norm, **few_groups(norm, 16)), 10)
    for name, parameter in network.named_parameters():
        is_norm = name.rpartition(".")[0].split(".")[-1].startswith("bn") or "downsample.1" in name
        assert (parameter.ndim == 1) == (is_norm or not name.endswith("weight")), name


def conv(x: Tensor, block: nn.Module, name: str, stride: int = 1) -> Tensor:
    weight = block.get_submodule(name).weight
    return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2)


def norm(x: Tensor, block: nn.Module, name: str) -> Tensor:
    bn = block.get_submodule(name)
    return F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias)


def post(x: Tensor, block: nn.Module) -> Tensor:
    branch = norm(conv(x, block, "conv1", 2), block, "bn1").relu()
    branch = norm(conv(branch, block, "conv2"), block, "bn2")
    return (branch + norm(conv(x, block, "downsample.0", 2), block, "downsample.1")).relu()


def pre(x: Tensor, block: nn.Module) -> Tensor:
    activated = norm(x, block, "bn1").relu()
    branch = norm(conv(activated, block, "conv1", 2), block, "bn2").relu()
    return conv(branch, block, "conv2") + conv(activated, block, "downsample.0", 2)


def pre_raw(x: Tensor, block: nn.Module) -> Tensor:
    activated = norm(x, block, "bn1").relu()
    branch = norm(conv(activated, block, "conv1", 2), block, "bn2").relu()
    return conv(branch, block, "conv2") + conv(x, block, "downsample.0", 2)


def relu_first(x: Tensor, block: nn.Module) -> Tensor:
    branch = norm(conv(x.relu(), block, "conv1", 2), block, "bn1").relu()
    branch = norm(conv(branch, block, "conv2"), block, "bn2")
    return branch + norm(conv(x.relu(), block, "downsample.0", 2), block, "downsample.1")


@pytest.mark.parametrize(
    ("order", "formula"), [("post", post), ("pre", pre), ("pre-raw", pre_raw), ("relu-first", relu_first)]
)
def test_block_follows_its_order(order: str, formula) -> None:
    torch.manual_seed(0)
    layers = Layers(ModelConfig())
    block = stage(ResNetShape(basic, (), order=order), layers, 4, 6, 2, 1)[0].double().eval()
    randomize_norms(block)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(block(x), formula(x, block), rtol=1e-12, atol=1e-12)


def test_identity_of_an_open_block_is_its_input_unrectified() -> None:
    block = stage(ResNetShape(basic, (), order="relu-first"), Layers(ModelConfig(norm="none")), 4, 4, 1, 1)[0]
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(x.clone()), x)


def test_pws_normalizes_after_the_stem_and_before_the_head_only() -> None:
    model = build_model(ModelConfig(model="resnet18", norm="pws"), 10)
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.GroupNorm)}
    assert list(norms) == ["bn1", "bn_last"]
    assert all(module.num_groups == 1 for module in norms.values())


def test_stride_of_a_bottleneck_sits_on_its_3x3() -> None:
    block = stage(ResNetShape(bottleneck, ()), Layers(ModelConfig()), 8, 4, 2, 1)[0]
    assert [block.conv1.stride, block.conv2.stride, block.conv3.stride] == [(1, 1), (2, 2), (1, 1)]


@pytest.mark.parametrize(("stem", "size"), [("imagenet", (2, 16, 8, 8)), ("small", (2, 16, 32, 32))])
def test_small_stem_keeps_the_size_and_the_other_quarters_it(stem: str, size: tuple[int, ...]) -> None:
    model = build_model(ModelConfig(model="resnet20", stem=stem), 10)
    shapes = []
    model.layer1.register_forward_hook(lambda _, inputs, __: shapes.append(inputs[0].shape))
    model(torch.randn(2, 3, 32, 32))
    assert shapes == [size]


def test_cifar_depths_are_6n_plus_2() -> None:
    with pytest.raises(ValueError, match=r"6n \+ 2 layers, not 21"):
        cifar(basic, 21)
    assert cifar(bottleneck, 29).depths == (3, 3, 3)


def test_pws_starts_with_kaiming_filters_and_a_small_head() -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(model="resnet18", norm="pws"), 1000)
    filters = model.layer4[0].conv1.weight  # 512 x 256 x 3 x 3
    assert filters.var().item() == pytest.approx(2 / (256 * 9), rel=0.01)
    assert model.fc.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert model.fc.bias.abs().max() == 0
    assert model.conv1.bias.abs().max() == 0


def test_classifiers_for_small_images_start_as_their_ancestors() -> None:
    torch.manual_seed(0)
    wide, cardinal = (build_model(ModelConfig(model=name), 10).fc for name in ("wrn16_2", "resnext29_8x64d"))
    assert wide.weight.abs().max() <= 128**-0.5  # torch's own
    assert cardinal.weight.std().item() == pytest.approx((2 / 1024) ** 0.5, rel=0.02)
    assert not wide.bias.any()
    assert not cardinal.bias.any()


def test_wn_starts_as_the_network_without_it() -> None:
    torch.manual_seed(0)
    plain = build_model(ModelConfig(model="resnet20", norm="none"), 10)
    normalized = build_model(ModelConfig(model="resnet20", norm="wn"), 10)
    normalized.load_state_dict({**normalized.state_dict(), "fc.weight": plain.fc.weight, "fc.bias": plain.fc.bias})
    for ours, theirs in zip(plain.modules(), normalized.modules(), strict=True):
        if isinstance(ours, nn.Conv2d):
            ours.weight = theirs.weight
            torch.testing.assert_close(theirs.kernel(), ours.weight)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(normalized(images), plain(images), rtol=1e-4, atol=1e-4)


def test_a_norm_that_is_its_own_activation_takes_the_place_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Normalization(norm=lambda config: nn.BatchNorm2d, fused=lambda config: nn.PReLU)
    monkeypatch.setitem(NORMALIZATIONS, "fused", row)
    block = build_model(ModelConfig(model="resnet20", norm="fused"), 10).layer1[0]
    assert isinstance(block.bn1, nn.PReLU)
    assert isinstance(block.act1, nn.Identity)
    assert isinstance(block.bn2, nn.BatchNorm2d)


def test_names_are_known() -> None:
    assert {"resnet50", "resnet50v2", "resnext50_32x4d", "wide_resnet101_2", "resnet20"} <= set(model_names())
