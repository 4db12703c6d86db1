"""Fused norms against torch's own operations in float64: answers, gradients, running statistics."""

import copy

import pytest
import torch
from torch import Tensor, nn

from models import build_model
from models.layers import Layers, fused, triton_norm
from models.layers.convolution import StandardizedConv2d, folded
from models.layers.fused import FusedBatchNorm2d, FusedGroupNorm, refuse_kernels
from models.layers.fused_convolution import FusedConvolution
from models.layers.gain import set_data_gains
from models.layers.normalization import NORMALIZATIONS
from models.residual import ORDERS, Block, Conv
from utils.config import ModelConfig
from utils.errors import EnvironmentFault, UsageError

ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}  # relative, of a whole tensor
CPU = torch.device("cpu")


@pytest.fixture
def device() -> torch.device:
    """Where Triton's kernels run: on a GPU, or in its interpreter (tests/conftest.py)."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles so small that there are tails, several splits, and several tiles of channels."""
    for name, value in {"TILE": 128, "WIDEST": 8, "PROGRAMS": 8}.items():
        monkeypatch.setattr(triton_norm, name, value)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[triton_norm.Task]:
    """What the kernels were asked for."""
    tasks, own = [], triton_norm.normalized
    monkeypatch.setattr(triton_norm, "normalized", lambda *given: tasks.append(given[-1]) or own(*given))
    return tasks


def drawn(layer: nn.Module) -> nn.Module:
    """With gains of both signs, biases and statistics that are not ones and zeros."""
    for tensor in (*layer.parameters(), *(b for b in layer.buffers() if b.is_floating_point())):
        nn.init.uniform_(tensor, 0.3, 1.5)
    for gain in (tensor for name, tensor in layer.named_parameters() if name.endswith("weight")):
        gain.data[..., ::3] *= -1
    return layer


def answers(layer: nn.Module, inputs: list[Tensor], seed: Tensor) -> list[Tensor]:
    """Output, gradients of inputs and parameters, buffers afterwards."""
    inputs = [x.clone(memory_format=torch.preserve_format).requires_grad_() for x in inputs]
    y = layer(*inputs)
    y.backward(seed.to(y))
    leaves = [*inputs, *layer.parameters()]
    return [y.detach(), *(leaf.grad for leaf in leaves), *layer.buffers()]


def assert_near(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for ours, exact in zip(found, expected, strict=True):
        assert (ours.double().cpu() - exact.double()).norm() <= tolerance * exact.double().norm() + 1e-6


def made(norm: str, channels: int) -> nn.Module:
    """The fused norm of a row, whose ReLU is in it."""
    own = {"norm_groups": 4} if "norm_groups" in NORMALIZATIONS[norm].settings else {}
    layer, act = Layers(ModelConfig(norm=norm, kernels="triton", **own)).norm_act(channels)
    assert isinstance(layer, FusedBatchNorm2d | FusedGroupNorm) and isinstance(act, nn.Identity)
    return drawn(layer)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("added", [False, True], ids=["", "added"])
@pytest.mark.parametrize("norm", ["bn", "gn", "ln"])
def test_kernels_give_what_torch_gives_in_float64(
    norm: str, added: bool, dtype: torch.dtype, device: torch.device, runs: list[triton_norm.Task]
) -> None:
    torch.manual_seed(0)
    layer = made(norm, 12)
    *inputs, seed = (2 * torch.randn(3, 2, 12, 5, 3) + 4)[0 if added else 1 :].to(dtype)
    inputs = [x.contiguous(memory_format=torch.channels_last).to(device) for x in inputs]
    exact = answers(copy.deepcopy(layer).double(), [x.double().cpu() for x in inputs], seed.double())
    found = answers(layer.to(device), inputs, seed)
    assert len(runs) == 1 and found[0].dtype == dtype and found[0].is_contiguous(memory_format=torch.channels_last)
    assert_near(found, exact, ROUNDING[dtype])


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("shape", [(1, 4, 1, 6), (1, 20, 7, 3), (5, 4, 1, 1), (2, 28, 2, 3)], ids=str)
@pytest.mark.parametrize("norm", ["bn", "gn", "ln"])
def test_kernels_take_any_shape(norm: str, shape: tuple[int, ...], device: torch.device) -> None:
    torch.manual_seed(0)
    layer = made(norm, shape[1])
    x, shortcut, seed = torch.randn(3, *shape)
    exact = answers(copy.deepcopy(layer).double(), [x.double(), shortcut.double()], seed.double())
    found = answers(layer.to(device), [x.to(device), shortcut.to(device)], seed)
    assert_near(found, exact, 1e-4)  # a deviation of few values may be small


def test_batch_norm_in_evaluation_takes_its_running_statistics(device: torch.device) -> None:
    torch.manual_seed(0)
    layer = made("bn", 6).eval()
    x, shortcut, seed = torch.randn(3, 2, 6, 3, 3)
    exact = answers(copy.deepcopy(layer).double(), [x.double(), shortcut.double()], seed.double())
    assert_near(answers(layer.to(device), [x.to(device), shortcut.to(device)], seed), exact, 2e-6)


def test_a_large_mean_does_not_eat_the_variance(device: torch.device) -> None:
    torch.manual_seed(0)
    x = 1000 + torch.randn(2, 8, 6, 5)
    for norm in ("bn", "gn"):
        layer = made(norm, 8)
        exact = layer.double().plain(x.double(), None)
        assert_near([layer.float()(x.to(device))], [exact], 1e-3)


def test_float64_goes_the_plain_way(device: torch.device, runs: list[triton_norm.Task]) -> None:
    layer = made("gn", 8).double().to(device)
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64, device=device)
    assert torch.equal(layer(x), torch.relu(nn.GroupNorm.forward(layer, x)))
    assert not runs


def blocks(norm: str, order: str, device: torch.device) -> list[Block]:
    """The same residual block with plain layers and with fused ones."""
    groups = {"norm_groups": 2} if "norm_groups" in NORMALIZATIONS[norm].settings else {}
    convs = [Conv(4, 4, 1), Conv(4, 4, 3, stride=2), Conv(4, 8, 1)]
    made = []
    for kernels in ("plain", "triton"):
        torch.manual_seed(0)
        layers = Layers(ModelConfig(norm=norm, kernels=kernels, **groups))
        made.append(drawn(Block(convs, ORDERS[order], layers)).to(device, memory_format=torch.channels_last))
    assert list(made[0].state_dict()) == list(made[1].state_dict())
    return made


@pytest.mark.parametrize("norm, order", [("bn", "post"), ("gn", "post"), ("pws", "relu-first"), ("wn", "post")])
def test_a_block_of_fused_layers_is_the_plain_block(norm: str, order: str, device: torch.device) -> None:
    plain, triton = blocks(norm, order, device)
    assert sum(isinstance(module, fused.FusedNorm | FusedConvolution) for module in triton.modules()) == 3
    x, seed = torch.randn(2, 4, 6, 6, device=device), torch.randn(2, 8, 3, 3)
    exact = answers(plain.double(), [x.double()], seed.double())
    assert_near(answers(triton, [x], seed), [tensor.cpu() for tensor in exact], 1e-5)
    triton.eval(), plain.eval()
    assert_near([triton(x)], [plain(x.double()).cpu()], 1e-5)


def test_a_fused_convolution_under_autocast_differs_by_rounding(device: torch.device) -> None:
    plain, triton = blocks("pws", "relu-first", device)
    x, seed = torch.randn(2, 4, 6, 6, device=device), torch.randn(2, 8, 3, 3)
    exact = answers(plain.double(), [x.double()], seed.double())
    with torch.autocast(device.type, torch.bfloat16):
        found = answers(triton, [x], seed)
    assert found[0].dtype == torch.bfloat16
    assert_near(found, [tensor.cpu() for tensor in exact], 4 * ROUNDING[torch.bfloat16])  # three layers


def test_gains_from_data_are_those_of_the_plain_network(device: torch.device) -> None:
    plain, triton = blocks("pws", "relu-first", device)
    for block in (plain, triton):
        set_data_gains(block, torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(1)).to(device))
    torch.testing.assert_close(list(triton.parameters()), list(plain.parameters()))


def test_written_out_kernels_keep_what_was_fused(device: torch.device) -> None:
    plain, triton = blocks("pws", "relu-first", device)
    x = torch.randn(2, 4, 6, 6, device=device)
    assert not any(isinstance(module, StandardizedConv2d) for module in folded(triton).modules())
    torch.testing.assert_close(folded(triton)(x), plain(x))


@pytest.mark.parametrize("norm", NORMALIZATIONS)
def test_with_triton_wished_for_every_norm_is_its_plain_self_in_float64(norm: str) -> None:
    groups = {"norm_groups": 4} if "norm_groups" in NORMALIZATIONS[norm].settings else {}
    found = []
    for kernels in ("plain", "triton"):
        torch.manual_seed(0)
        layers = Layers(ModelConfig(norm=norm, kernels=kernels, **groups))
        block = drawn(Block([Conv(8, 8, 3), Conv(8, 8, 3)], ORDERS["post"], layers)).double()
        torch.manual_seed(1)
        found.append(answers(block, [torch.randn(2, 8, 5, 5, dtype=torch.float64)], torch.randn(2, 8, 5, 5)))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


def test_what_nothing_could_use_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    wished = ModelConfig(kernels="triton")
    with pytest.raises(EnvironmentFault, match="--kernels triton needs a GPU, found the device cpu"):
        refuse_kernels(wished, CPU, torch.float32)
    with pytest.raises(UsageError, match="no effect with --precision fp64"):
        refuse_kernels(wished, torch.device("cuda"), torch.float64)
    refuse_kernels(ModelConfig(), CPU, torch.float64)
    for useless in ({"norm": "frn"}, {"act": "gelu"}, {"ghost_batch": 4}):
        with pytest.raises(UsageError, match="--kernels triton has no effect"):
            build_model(ModelConfig(model="resnet20", kernels="triton", **useless), 10)
    build_model(ModelConfig(model="resnet20", norm="frn", kernels="plain"), 10)


def test_auto_is_plain_as_long_as_no_gpu_has_measured_the_kernels() -> None:
    model = build_model(ModelConfig(model="resnet20"), 10)
    assert not [module for module in model.modules() if isinstance(module, fused.FusedNorm | FusedConvolution)]
