"""Convolutions with computed kernels: formulas, gradients, and that evaluation never uses an old kernel."""

import copy
import io

import pytest
import torch
from operations import Count
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers.convolution import PWSConv2d, PWSRule, StandardizedConv2d, WNConv2d, WSConv2d, folded

# seeds.md 1.1: the first weights of the first filter, six digits.
SEED_WEIGHT = (0.1 * (torch.arange(24) % 7).double() - 0.25).view(2, 3, 2, 2)
WS_ROW = [-1.339381, -0.820911, -0.302441, 0.216029, 0.734499, 1.252969, 1.771439, -1.339381]
PWS_ROWS = {
    PWSRule(1e-3, equiv=False, fan="in"): [-0.562948, -0.345033, -0.127117, 0.090798, 0.308714, 0.526629, 0.744544],
    PWSRule(1e-3, equiv=False, fan="out"): [-0.689468, -0.422577, -0.155686, 0.111205, 0.378095, 0.644986, 0.911877],
    PWSRule(1e-1, equiv=True, fan="in"): [-0.468088, -0.286893, -0.105697, 0.075498, 0.256693, 0.437889, 0.619084],
}
CLASSES = (WSConv2d, WNConv2d, PWSConv2d)


def with_weight(conv: StandardizedConv2d, weight: Tensor) -> StandardizedConv2d:
    conv.weight = nn.Parameter(weight)
    return conv.double()


def some_conv(cls: type[StandardizedConv2d]) -> StandardizedConv2d:
    torch.manual_seed(0)
    return cls(4, 6, 3, padding=1)


def expected_kernel(conv: StandardizedConv2d) -> Tensor:
    """The formulas of the papers and of seeds.md 2.1, filter by filter."""
    return torch.stack([expected_filter(conv, o) for o in range(conv.out_channels)])


def expected_filter(conv: StandardizedConv2d, o: int) -> Tensor:
    weight = conv.weight[o]
    if isinstance(conv, WSConv2d):
        return (weight - weight.mean()) / (weight.std(correction=1) + 1e-5)
    if isinstance(conv, WNConv2d):
        return conv.g[o] * weight / weight.square().sum().sqrt()
    c_in, c_out, area = conv.weight.shape[1], conv.weight.shape[0], conv.weight[0, 0].numel()
    fan = {"in": c_in, "out": c_out}[conv.rule.fan] * area
    gamma = conv.rule.gamma * (2 / fan if conv.rule.equiv else 1)
    centred = weight - weight.mean()
    return (2 / fan) ** 0.5 * conv.alpha[o] * centred / (centred.square().mean() + gamma).sqrt()


def test_ws_kernel_has_the_seeds_numbers() -> None:
    kernel = with_weight(WSConv2d(3, 2, 2), SEED_WEIGHT).kernel()
    torch.testing.assert_close(kernel[0].flatten()[:8], torch.tensor(WS_ROW).double(), rtol=0, atol=5e-7)


@pytest.mark.parametrize("rule", PWS_ROWS, ids=str)
def test_pws_kernel_has_the_seeds_numbers(rule: PWSRule) -> None:
    kernel = with_weight(PWSConv2d(3, 2, 2, rule), SEED_WEIGHT).kernel()
    torch.testing.assert_close(kernel[0].flatten()[:7], torch.tensor(PWS_ROWS[rule]).double(), rtol=0, atol=5e-7)


@pytest.mark.parametrize(
    "options", [{}, {"groups": 2, "dilation": 2, "padding": 2, "stride": 2}], ids=["plain", "grouped"]
)
@pytest.mark.parametrize("cls", CLASSES)
def test_output_and_gradients_follow_the_formula(cls: type[StandardizedConv2d], options: dict[str, int]) -> None:
    conv = cls(4, 6, 3, **options).double()
    for name in ("g", "alpha"):
        if hasattr(conv, name):
            nn.init.uniform_(getattr(conv, name), 0.5, 2)
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    expected = F.conv2d(x, expected_kernel(conv), conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    direction = torch.randn_like(expected)
    torch.testing.assert_close(conv(x), expected, rtol=1e-12, atol=1e-12)
    parameters = list(conv.parameters())
    for found, wanted in zip(
        torch.autograd.grad((conv(x) * direction).sum(), parameters),
        torch.autograd.grad((expected * direction).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_weight_is_computed_with_as_it_lies_in_memory(cls: type[StandardizedConv2d]) -> None:
    conv = some_conv(cls).double()
    expected, weights = conv.kernel().detach(), torch.arange(conv.weight.numel()).view_as(conv.weight).double()
    conv.weight.data = conv.weight.data.to(memory_format=torch.channels_last)
    with Count() as count:
        kernel = conv.kernel()
    assert kernel.stride() == conv.weight.stride() and not {"clone", "copy_", "_to_copy"} & set(count.names)
    torch.testing.assert_close(kernel, expected)
    (gradient,) = torch.autograd.grad(kernel, conv.weight, weights.to(memory_format=torch.channels_last))
    (wanted,) = torch.autograd.grad(expected_kernel(conv), conv.weight, weights)
    assert gradient.stride() == conv.weight.stride()
    torch.testing.assert_close(gradient, wanted)


def test_pws_fan_out_of_a_grouped_convolution_is_that_of_torch() -> None:
    conv = PWSConv2d(4, 6, 3, PWSRule(fan="out"), groups=2)
    nn.init.kaiming_normal_(many := torch.empty(600, 2, 3, 3), mode="fan_out", nonlinearity="relu")
    assert conv.kaiming_variance == pytest.approx(2 / (6 * 9))
    assert many.var().item() == pytest.approx(2 / (600 * 9), rel=0.1)


def test_wn_gains_start_as_the_norms_of_the_filters() -> None:
    conv = some_conv(WNConv2d)
    torch.testing.assert_close(conv.g, conv.weight.square().sum((1, 2, 3)).sqrt())
    torch.testing.assert_close(conv.kernel(), conv.weight)


def test_ws_filter_of_equal_weights_is_zero_and_has_finite_gradients() -> None:
    conv = with_weight(WSConv2d(2, 3, 3, bias=False), torch.ones(3, 2, 3, 3))
    output = conv(torch.randn(1, 2, 5, 5, dtype=torch.float64))
    output.sum().backward()
    assert output.abs().max() == 0
    assert torch.isfinite(conv.weight.grad).all()


@pytest.mark.parametrize("cls", CLASSES)
def test_extra_parameters_have_one_dimension(cls: type[StandardizedConv2d]) -> None:
    assert all(p.ndim == 1 for name, p in some_conv(cls).named_parameters() if name != "weight")


def loaded(conv: StandardizedConv2d) -> StandardizedConv2d:
    conv.load_state_dict({name: value + 0.1 * torch.randn_like(value) for name, value in conv.state_dict().items()})
    return conv


def optimized(conv: StandardizedConv2d) -> StandardizedConv2d:
    conv.train()(torch.ones(1, 4, 5, 5)).square().sum().backward()
    torch.optim.SGD(conv.parameters(), lr=0.1).step()
    return conv.eval()


def in_place(conv: StandardizedConv2d) -> StandardizedConv2d:
    with torch.no_grad():
        conv.weight.add_(torch.randn_like(conv.weight))
    return conv


def through_data(conv: StandardizedConv2d) -> StandardizedConv2d:
    conv.weight.data.add_(torch.randn_like(conv.weight))  # a write that no version counter sees
    return conv


def replaced(conv: StandardizedConv2d) -> StandardizedConv2d:
    conv.weight.data = torch.randn_like(conv.weight)
    return conv


def saved_and_read(conv: StandardizedConv2d) -> StandardizedConv2d:
    file = io.BytesIO()
    torch.save(conv, file)
    file.seek(0)
    return in_place(torch.load(file, weights_only=False))


CHANGES = (
    loaded,
    optimized,
    in_place,
    through_data,
    replaced,
    saved_and_read,
    lambda conv: in_place(copy.deepcopy(conv)),
    lambda conv: conv.double(),
)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("cls", CLASSES)
def test_evaluation_never_uses_an_old_kernel(cls: type[StandardizedConv2d], change) -> None:
    conv = some_conv(cls).eval()
    x = torch.randn(1, 4, 5, 5)
    with torch.no_grad():
        conv(x)
    conv = change(conv)
    x = x.to(conv.weight.dtype)
    with torch.no_grad():
        torch.testing.assert_close(conv(x), F.conv2d(x, expected_kernel(conv), conv.bias, padding=1))


@pytest.mark.parametrize("cls", CLASSES)
def test_evaluation_lets_gradients_through(cls: type[StandardizedConv2d]) -> None:
    conv = some_conv(cls).eval()
    for _ in range(2):
        conv.zero_grad()
        conv(torch.randn(1, 4, 5, 5)).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in conv.parameters())


@pytest.mark.parametrize("cls", CLASSES)
def test_autocast_computes_the_kernel_in_float32(cls: type[StandardizedConv2d]) -> None:
    conv, x = some_conv(cls).eval(), torch.randn(1, 4, 5, 5)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert conv.kernel().dtype == torch.float32
        narrow = conv(x)
    assert narrow.dtype == torch.bfloat16
    with torch.no_grad():
        # bfloat16 keeps 8 bits of inputs and kernel
        torch.testing.assert_close(narrow.float(), conv(x), rtol=0.05, atol=0.05)


def test_folded_network_has_plain_convolutions_and_the_same_outputs() -> None:
    inner = nn.Sequential(WSConv2d(6, 4, 1, bias=False, groups=2))
    model = nn.Sequential(some_conv(PWSConv2d), inner, some_conv(WNConv2d))
    plain = folded(model.eval())
    x = torch.randn(2, 4, 6, 6)
    assert not any(isinstance(module, StandardizedConv2d) for module in plain.modules())
    assert isinstance(model[0], PWSConv2d)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), model(x))
