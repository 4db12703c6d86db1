"""Kernels computed together: the bits of those computed alone, in few operations, never stale, and in every copy."""

import copy
import io
from collections.abc import Callable

import pytest
import torch
from operations import Count
from torch import Tensor, nn

from models import build_model, kept_kernels, set_data_gains
from models.layers.convolution import A1Conv2d, PWSConv2d, PWSRule, StandardizedConv2d, WNConv2d, WSConv2d
from models.layers.deformable import deformable
from models.layers.kernels import TritonStandardization, standardize_together, standardized
from utils.config import ModelConfig
from utils.distributed import World
from utils.replication import replicate

NORMS = ("pws", "ws_bn", "a1", "wn")


def network(model: str = "resnet20", dtype: torch.dtype = torch.float32, **settings: object) -> nn.Module:
    """A network as after some steps, in the layout of training."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(model=model, **{"norm": "pws", **settings}), 10)
    if "kernels" not in settings:
        model = alone(model)
        standardize_together(model, standardized)  # on a CPU too
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.to(dtype).to(memory_format=torch.channels_last)


def alone(model: nn.Module) -> nn.Module:
    """A copy in which each convolution computes its own kernel."""
    model = copy.deepcopy(model)
    model._forward_pre_hooks.clear()
    model._forward_hooks.clear()
    return model


def convolutions(model: nn.Module) -> list[StandardizedConv2d]:
    return [module for module in model.modules() if isinstance(module, StandardizedConv2d)]


def images(dtype: torch.dtype = torch.float32, seed: int = 1, side: int = 16) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, side, side, generator=draw).to(dtype).to(memory_format=torch.channels_last)


def answers(model: nn.Module, compute: torch.dtype, inputs: Tensor) -> list[Tensor | None]:
    """Logits and the gradients of all parameters."""
    model.zero_grad()
    torch.manual_seed(2)
    with torch.autocast("cpu", torch.bfloat16, enabled=compute is torch.bfloat16):
        logits = model(inputs)
    logits.double().square().sum().backward()
    return [logits, *(parameter.grad for parameter in model.parameters())]


def assert_equal(found: list[Tensor | None], expected: list[Tensor | None]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None and theirs is None) or torch.equal(ours, theirs)


CASES = [("resnet20", norm, {}) for norm in NORMS] + [
    ("resnet20", "pws", {"pws_fan": "out", "pws_equiv": "off"}),
    ("resnet20", "ws_bn", {"frozen_stages": 1}),
    ("resnet50", "pws", {"deformable": True, "width": 0.25}),
    ("mobilenet_v2", "ws_bn", {}),
]


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(("model", "norm", "settings"), CASES, ids=str)
def test_together_gives_the_bits_of_alone(model: str, norm: str, settings: dict, compute: torch.dtype) -> None:
    storage = torch.float64 if compute is torch.float64 else torch.float32
    together = network(model, storage, norm=norm, **settings)
    # From a 3x3 convolution of stride 2 on one position oneDNN gives bfloat16 gradients that it has not written to.
    x = images(storage, side=16 if model == "resnet20" else 32)
    expected = answers(alone(together), compute, x)
    assert_equal(answers(together, compute, x), expected)
    assert all(conv.given is None for conv in convolutions(together))


@pytest.fixture(scope="module")
def resnet50() -> nn.Module:
    return build_model(ModelConfig(norm="pws"), 10)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16], ids=str)
def test_pws_kernels_of_resnet50_take_at_most_150_operations(
    resnet50: nn.Module, compute: torch.dtype, layout: torch.memory_format
) -> None:
    convs = convolutions(resnet50.to(memory_format=layout))
    gradients = [torch.ones_like(conv.weight, dtype=compute) for conv in convs]
    parameters = [parameter for conv in convs for parameter in (conv.weight, conv.gain)]
    with Count() as count:
        with torch.autocast("cpu", torch.bfloat16, enabled=compute is torch.bfloat16):
            kernels = standardized(convs)
        found = torch.autograd.grad([kernels[conv] for conv in convs], parameters, gradients)
    assert len(convs) == 53
    assert all(kernel.dtype is compute for kernel in kernels.values())
    assert count.launched <= 130
    if compute is torch.float32 and layout is torch.contiguous_format:
        assert count.all <= 150
    # A gradient that is laid out as its parameter is taken over; another would be copied, one by one.
    others = [(ours, p) for ours, p in zip(found, parameters, strict=True) if p.shape[2:] == (3, 3)]
    assert all(ours.stride() == p.stride() for ours, p in others)


def loaded(model: nn.Module) -> None:
    model.load_state_dict({name: value + 0.1 for name, value in model.state_dict().items()})


def stepped(**options: bool) -> Callable[[nn.Module], None]:
    def step(model: nn.Module) -> None:
        answers(model, torch.float32, images().to(next(model.parameters()).device))
        # Fused, it moves no version counter; but it needs gradients, and what gave them computed kernels of its own.
        torch.optim.SGD(model.parameters(), lr=1e-3, **options).step()

    return step


@torch.no_grad()
def averaged(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.lerp_(torch.ones_like(parameter), torch.tensor(0.1))


def swapped(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.1


def replaced(model: nn.Module) -> None:
    for conv in convolutions(model):
        conv.weight = nn.Parameter(conv.weight.detach() + 0.1)


def gained(model: nn.Module) -> None:
    with torch.no_grad():
        for conv in convolutions(model):
            conv.gain.mul_(1.1)


CHANGES = (loaded, stepped(), stepped(foreach=True), stepped(fused=True), averaged, swapped, replaced, gained)


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_a_kept_kernel_is_never_stale(change: Callable[[nn.Module], None]) -> None:
    model = network().eval()
    with kept_kernels(model):
        before = model(images())
        with torch.enable_grad():
            change(model)
        after = model(images())
    assert not torch.equal(before, after)
    assert torch.equal(after, alone(model)(images()))


@torch.no_grad()
def test_kept_kernels_are_computed_once_and_not_longer_than_they_are_kept() -> None:
    model = network("resnet20", norm="wn").eval()  # without other norms

    def norms() -> int:
        with Count() as count:
            model(images())
        return count.names.count("linalg_vector_norm")

    with kept_kernels(model):
        first, second = norms(), norms()
        for parameter in model.parameters():
            parameter.data.mul_(1.1)  # seen by no version counter
    assert first > second == 0
    assert norms() == first
    assert torch.equal(model(images()), alone(model)(images()))


def test_kept_kernels_follow_precision_and_let_gradients_through() -> None:
    model = network().eval()
    expected = {bits: answers(alone(model), bits, images()) for bits in (torch.float32, torch.bfloat16)}
    with kept_kernels(model):
        for bits in (torch.float32, torch.bfloat16, torch.float32):
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bits is torch.bfloat16):
                assert torch.equal(model(images()), expected[bits][0])
            assert_equal(answers(model, bits, images()), expected[bits])
        model.double()
        with torch.no_grad():
            assert torch.equal(model(images(torch.float64)), alone(model)(images(torch.float64)))


@pytest.mark.parametrize("exact", [False, True])
def test_shards_of_a_step_add_up_as_they_do_alone(exact: bool) -> None:
    def gradients(model: nn.Module) -> list[Tensor]:
        replicas = replicate(model, World(0, 1, 0, torch.device("cpu")), 4, exact)
        replicas.begin()
        for shard in replicas.shards:
            with replicas.shard(shard):
                (replicas.network(images(seed=shard)).square().sum() * replicas.share).backward()
        replicas.reduce()
        return [parameter.grad for parameter in model.parameters()]

    model = network()
    expected = gradients(alone(model))
    assert_equal(gradients(model), expected)


def test_gains_from_data_are_those_of_convolutions_alone() -> None:
    together = network()
    other = alone(together)
    for model in (together, other):
        set_data_gains(model, images())
    assert_equal(list(together.state_dict().values()), list(other.state_dict().values()))


def saved_and_read(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, saved_and_read])
def test_copies_have_kernels_of_their_own(copied: Callable[[nn.Module], nn.Module]) -> None:
    model = network()
    other = copied(model).requires_grad_(False).eval()
    averaged(other)
    with torch.no_grad(), Count() as count:
        found = other(images())
    assert count.names.count("cat") > 0  # together
    assert torch.equal(found, alone(other)(images()))
    assert_equal(answers(model, torch.float32, images()), answers(alone(model), torch.float32, images()))


def test_parts_of_a_network_compute_their_own_kernels() -> None:
    model = network()
    with Count() as count:
        model.layer1(model.conv1(images()))
    assert count.names.count("cat") == 0
    backbone = build_model(ModelConfig(model="resnet20", norm="pws"), 10, out_indices=(1,))
    assert backbone(images())["layer1"].shape == (4, 16, 16, 16)


def test_a_forward_pass_that_fails_leaves_no_kernels() -> None:
    model = network()
    with pytest.raises(RuntimeError):
        model(torch.zeros(1, 5, 16, 16))
    assert all(conv.given is None for conv in convolutions(model))


def test_kinds_are_not_mixed() -> None:
    torch.manual_seed(0)
    kinds = (PWSConv2d, WSConv2d, WNConv2d, PWSConv2d, WSConv2d, WNConv2d)
    model = nn.Sequential(*(kind(3, 3, 3, padding=1) for kind in kinds)).double()
    standardize_together(model, standardized)
    x = images(torch.float64)[:, :3]
    assert_equal(answers(model, torch.float64, x), answers(alone(model), torch.float64, x))


def test_a_compiled_network_gives_the_same() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(PWSConv2d(3, 4, 3), nn.ReLU(), WSConv2d(4, 2, 1))
    standardize_together(model, standardized)
    expected = answers(alone(model), torch.float32, images())
    model.compile(backend="eager", fullgraph=True)
    assert_equal(answers(model, torch.float32, images()), expected)
    with kept_kernels(model), torch.no_grad():
        assert torch.equal(model(images()), expected[0])
        averaged(model)
        assert torch.equal(model(images()), alone(model)(images()))


def test_functional_transforms_go_through() -> None:
    model = network("resnet20", torch.float64)
    parameters = dict(model.named_parameters())

    def loss(values: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, values, (images(torch.float64),)).square().sum()

    found = list(torch.func.grad(loss)(parameters).values())
    expected = answers(alone(model), torch.float64, images(torch.float64))[1:]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.fixture
def device() -> torch.device:
    """Where Triton's kernels run: on a GPU, or in its interpreter."""
    pytest.importorskip("triton")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def mixture(device: torch.device) -> list[StandardizedConv2d]:
    """Filters of 1100, 9 and 18 weights among others; groups, both fans, gains and none, what is done plainly."""
    torch.manual_seed(0)
    rule = PWSRule(0.1, equiv=True, fan="in")
    convs = [PWSConv2d(44, 3, 5, rule), PWSConv2d(4, 6, 3, groups=2), WSConv2d(4, 4, 3, groups=4, bias=False)]
    convs += [A1Conv2d(7, 3, 3), WNConv2d(4, 3, 3), deformable(PWSConv2d)(3, 2, 3, rule=rule)]
    for conv in convs:
        conv.to(device, memory_format=torch.channels_last)
        if conv.gain is not None:
            nn.init.uniform_(conv.gain, 0.5, 2)
    return convs


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16], ids=str)
def test_triton_gives_the_plain_kernels_and_gradients(device: torch.device, compute: torch.dtype) -> None:
    convs = mixture(device)
    parameters = [p for conv in convs for p in (conv.weight, conv.gain) if p is not None]
    answers = []
    for method in (standardized, TritonStandardization()):
        with torch.autocast(device.type, torch.bfloat16, enabled=compute is torch.bfloat16):
            kernels = method(convs)
        torch.manual_seed(1)
        gradients = [torch.randn_like(conv.weight, dtype=kernels[conv].dtype) for conv in convs]
        outputs = [kernels[conv] for conv in convs]
        answers.append((outputs, torch.autograd.grad(outputs, parameters, gradients)))
    (plain, plain_gradients), (found, found_gradients) = answers
    for conv, ours, theirs in zip(convs, found, plain, strict=True):
        assert ours.dtype is theirs.dtype is (compute if conv.autocasts else torch.float32)
        assert ours.stride() == conv.weight.stride() or isinstance(conv, WNConv2d)
        tolerance = 1e-6 if ours.dtype is torch.float32 else 2**-7  # a last bit of bfloat16
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=1e-6)
    for ours, theirs in zip(found_gradients, plain_gradients, strict=True):
        assert (ours - theirs).abs().max() <= 2e-6 * theirs.abs().max()


def test_triton_leaves_frozen_parameters_alone(device: torch.device) -> None:
    convs = mixture(device)
    convs[0].requires_grad_(False)
    convs[1].weight.requires_grad_(False)
    kernels = TritonStandardization()(convs)
    assert [kernels[conv].requires_grad for conv in convs] == [False, True, True, True, True, True]
    sum(kernel.square().sum() for kernel in kernels.values()).backward()
    assert convs[0].weight.grad is None and convs[0].gain.grad is None and convs[1].weight.grad is None
    assert all(conv.weight.grad is not None for conv in convs[2:])
    assert convs[1].gain.grad.abs().min() > 0


def test_triton_filter_of_equal_weights_is_zero_and_has_finite_gradients(device: torch.device) -> None:
    conv = WSConv2d(2, 3, 3, bias=False).to(device)
    nn.init.ones_(conv.weight)
    kernel = TritonStandardization()([conv])[conv]
    assert kernel.abs().max() == 0
    kernel.sum().backward()
    assert conv.weight.grad.isfinite().all()


def test_tables_follow_the_weights_and_are_not_copied(device: torch.device) -> None:
    def error() -> float:
        with torch.no_grad():
            return (model(x) - alone(model)(x)).abs().max().item()

    torch.manual_seed(0)
    model = nn.Sequential(PWSConv2d(3, 4, 3), nn.ReLU(), WSConv2d(4, 2, 1)).to(device)
    assert standardize_together(model, TritonStandardization())
    method = next(iter(model._forward_pre_hooks.values())).args[0]
    x = images().to(device)
    assert error() < 1e-5
    table = method.tables[torch.float32][1]
    stepped()(model)
    assert error() < 1e-5 and method.tables[torch.float32][1] is table
    swapped(model)
    assert error() < 1e-5 and method.tables[torch.float32][1] is not table
    other = copy.deepcopy(model)
    assert next(iter(other._forward_pre_hooks.values())).args[0].tables == {}


def test_float64_is_always_plain(device: torch.device) -> None:
    together = network(dtype=torch.float64, kernels="triton").to(device)
    x = images(torch.float64).to(device)
    with torch.no_grad():
        torch.testing.assert_close(together(x), alone(together)(x), rtol=1e-10, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("kernels", ["auto", "plain"])
def test_on_a_cpu_kernels_are_alone_in_training_and_together_in_an_evaluation(kernels: str) -> None:
    model = network(kernels=kernels)
    with Count() as count:
        model(images())
    assert count.names.count("cat") == 0
    with kept_kernels(model.eval()), Count() as count:
        model(images())
    assert count.names.count("cat") > 0
