"""Optimizers beside their papers in float64, steps that are taken back, and what is around an optimizer."""

import copy
import math
import tomllib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from asking import NeverAsked
from numpy.typing import NDArray
from torch import Tensor, nn

from utils.config import OptimConfig
from utils.config.parsing import as_toml, config_from_settings, read_config
from utils.errors import UsageError
from utils.optim import Sharpness, build_clipping, build_optimizer, set_rate
from utils.optim.building import keep_rate_on_device
from utils.optim.guarding import Steps

Array = NDArray[np.float64]
RATES = (0.1, 0.05, 0.02, 0.1)
DECAY = 0.03
SHAPES = ((4, 3, 3, 3), (5, 6), (4,))


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    draws = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=draws, dtype=torch.float64).to(dtype)) for shape in SHAPES]


def gradients(step: int) -> list[Tensor]:
    draws = torch.Generator().manual_seed(100 + step)
    return [torch.randn(shape, generator=draws, dtype=torch.float64) for shape in SHAPES]


def built(weights: list[nn.Parameter], kinds: dict | None = None, **settings: object) -> Steps:
    settings = {"lr": 1.0, **settings}
    return build_optimizer([{"params": weights, "weight_decay": DECAY}], OptimConfig(**settings), kinds)


def take(optimizer: Steps, weights: list[nn.Parameter], step: int, finite: bool = True) -> None:
    for weight, gradient in zip(weights, gradients(step), strict=True):
        weight.grad = gradient.to(weight.dtype) if finite else torch.full_like(weight, math.nan)
    optimizer.found_inf = torch.tensor(0.0 if finite else 1.0)
    set_rate(optimizer, RATES[step])
    optimizer.step()


# What each paper says, for one tensor in numpy: (weights, gradient, memory, rate, steps with this one) -> weights.
def sgd(w: Array, g: Array, memory: dict, rate: float, t: int) -> Array:
    memory["b"] = 0.9 * memory.get("b", 0) + g + DECAY * w
    return w - rate * memory["b"]


def nesterov(w: Array, g: Array, memory: dict, rate: float, t: int) -> Array:
    slope = g + DECAY * w
    memory["b"] = 0.9 * memory.get("b", 0) + slope
    return w - rate * (slope + 0.9 * memory["b"])


def adam_parts(g: Array, memory: dict, beta1: float, beta2: float, t: int) -> tuple[Array, Array]:
    memory["m"] = beta1 * memory.get("m", 0) + (1 - beta1) * g
    memory["v"] = beta2 * memory.get("v", 0) + (1 - beta2) * g**2
    return memory["m"] / (1 - beta1**t), memory["v"] / (1 - beta2**t)


def adamw(w: Array, g: Array, memory: dict, rate: float, t: int) -> Array:
    m, v = adam_parts(g, memory, 0.9, 0.999, t)
    return w - rate * (m / (np.sqrt(v) + 1e-8) + DECAY * w)


def rmsprop(w: Array, g: Array, memory: dict, rate: float, t: int) -> Array:
    memory["s"] = 0.99 * memory.get("s", 0) + 0.01 * g**2
    return w - rate * g / (np.sqrt(memory["s"]) + 1e-8)


def rmsprop_decayed(w: Array, g: Array, memory: dict, rate: float, t: int) -> Array:
    return rmsprop(w, g + DECAY * w, memory, rate, t)


def rmsprop_tf(w: Array, g: Array, memory: dict, rate: float, t: int) -> Array:
    slope = g + DECAY * w
    memory["s"] = 0.9 * memory.get("s", 1) + 0.1 * slope**2
    memory["b"] = 0.9 * memory.get("b", 0) + rate * slope / np.sqrt(memory["s"] + 1e-3)
    return w - memory["b"]


def lars(w: Array, g: Array, memory: dict, rate: float, t: int) -> Array:
    of_w, of_g = np.sqrt((w**2).sum()), np.sqrt((g**2).sum())
    local = 0.001 * of_w / (of_g + DECAY * of_w) if w.ndim > 1 else 1.0
    memory["b"] = 0.9 * memory.get("b", 0) + rate * local * (g + DECAY * w)
    return w - memory["b"]


def lamb(w: Array, g: Array, memory: dict, rate: float, t: int) -> Array:
    m, v = adam_parts(g, memory, 0.9, 0.999, t)
    u = m / (np.sqrt(v) + 1e-6) + DECAY * w
    return w - rate * np.sqrt((w**2).sum() / (u**2).sum()) * u


def lion(w: Array, g: Array, memory: dict, rate: float, t: int) -> Array:
    m = memory.get("m", 0)
    memory["m"] = 0.99 * m + 0.01 * g
    return w - rate * (np.sign(0.9 * m + 0.1 * g) + DECAY * w)


def adan(w: Array, g: Array, memory: dict, rate: float, t: int) -> Array:
    """Algorithm 1 with its betas, 0.02, 0.08 and 0.01, and the averages of the authors' code."""
    change = g - memory.get("g", g)
    memory["g"] = g
    memory["m"] = 0.98 * memory.get("m", 0) + 0.02 * g
    memory["v"] = 0.92 * memory.get("v", 0) + 0.08 * change
    memory["n"] = 0.99 * memory.get("n", 0) + 0.01 * (g + 0.92 * change) ** 2
    m, v, n = (memory[name] / (1 - kept**t) for name, kept in (("m", 0.98), ("v", 0.92), ("n", 0.99)))
    return (w - rate * (m + 0.92 * v) / (np.sqrt(n) + 1e-8)) / (1 + rate * DECAY)


PAPERS: dict[str, tuple[Callable[..., Array], dict[str, object]]] = {
    "sgd": (sgd, {"opt": "sgd"}),
    "sgd-unfused": (sgd, {"opt": "sgd", "fused": "off"}),
    "nesterov": (nesterov, {"opt": "nesterov"}),
    "nesterov-flag": (nesterov, {"opt": "sgd", "nesterov": True, "fused": "torch"}),
    "adamw": (adamw, {"opt": "adamw"}),
    "adamw-unfused": (adamw, {"opt": "adamw", "fused": "off"}),
    "rmsprop": (rmsprop_decayed, {"opt": "rmsprop"}),
    "rmsprop_tf": (rmsprop_tf, {"opt": "rmsprop_tf", "momentum": 0.9, "eps": 1e-3}),
    "lars": (lars, {"opt": "lars"}),
    "lamb": (lamb, {"opt": "lamb"}),
    "lion": (lion, {"opt": "lion"}),
    "adan": (adan, {"opt": "adan"}),
}
WRAPPED = {"muon": {"opt": "muon"}, "lookahead": {"lookahead": (2, 0.5)}, "gc": {"gradient_centralization": "all"}}
WRAPPED |= {"adan-lookahead": {"opt": "adan", "lookahead": (2, 0.5)}}
ALL = {name: settings for name, (_, settings) in PAPERS.items()} | WRAPPED


@pytest.mark.parametrize("name", PAPERS)
def test_steps_are_the_papers(name: str) -> None:
    paper, settings = PAPERS[name]
    weights = parameters()
    by_hand, memories = [w.detach().numpy().copy() for w in weights], [{} for _ in weights]
    optimizer = built(weights, **settings)
    for step, rate in enumerate(RATES):
        take(optimizer, weights, step)
        each = zip(by_hand, gradients(step), memories, strict=True)
        by_hand = [paper(w, g.numpy(), memory, rate, step + 1) for w, g, memory in each]
    for weight, expected in zip(weights, by_hand, strict=True):
        np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-9, atol=1e-10)


def test_a_layer_without_weights_or_gradient_still_moves_by_lars_and_lamb() -> None:
    for opt in ("lars", "lamb"):
        weights = [nn.Parameter(torch.zeros(2, 3, dtype=torch.float64)), nn.Parameter(torch.ones(2, 3).double())]
        optimizer = built(weights, opt=opt)
        weights[0].grad, weights[1].grad = torch.ones(2, 3).double(), torch.zeros(2, 3).double()
        set_rate(optimizer, 0.1)
        optimizer.step()
        assert all(weight.isfinite().all() for weight in weights)
        assert (weights[0] != 0).all()


def state_bits(optimizer: Steps) -> dict[str, object]:
    """All that is remembered, flattened; steps that were taken back may leave zeros where there was nothing."""
    found: dict[str, object] = {}

    def walk(value: object, path: str) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
        if items is None:
            found[path] = value.clone() if isinstance(value, Tensor) else value
        for key, inner in items or ():
            if key not in ("param_groups", "slow"):
                walk(inner, f"{path}/{key}")

    walk(optimizer.state_dict(), "")
    return found


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("name", ALL)
def test_a_step_that_is_not_finite_leaves_no_trace(name: str, first: int) -> None:
    """Also where it is the very first, before there is any memory: then all of it is zero, or as it starts."""
    weights, untouched = parameters(torch.float32), parameters(torch.float32)
    optimizer, other = built(weights, **ALL[name]), built(untouched, **ALL[name])
    for step in range(first):
        take(optimizer, weights, step)
        take(other, untouched, step)
    before, kept = state_bits(optimizer), [weight.detach().clone() for weight in weights]
    take(optimizer, weights, 3, finite=False)
    assert all(torch.equal(weight, old) for weight, old in zip(weights, kept, strict=True))
    for path, value in state_bits(optimizer).items():
        old = before.get(path)
        if isinstance(value, Tensor):
            assert torch.equal(value, torch.zeros_like(value) if old is None else old), path
    take(optimizer, weights, first)
    take(other, untouched, first)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights, untouched, strict=True))


@pytest.mark.parametrize("name", ALL)
def test_a_loaded_state_goes_on_bit_exactly(name: str) -> None:
    weights = parameters(torch.float32)
    optimizer = built(weights, **ALL[name])
    for step in range(3):
        take(optimizer, weights, step)
    copies = [nn.Parameter(weight.detach().clone()) for weight in weights]
    saved = copy.deepcopy(optimizer.state_dict())
    resumed = built(copies, **ALL[name])
    resumed.load_state_dict(saved)
    take(optimizer, weights, 3)
    take(resumed, copies, 3)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights, copies, strict=True))


@pytest.mark.parametrize("name", [name for name in ALL if name != "adamw-unfused"])  # counts on the host, on a CPU
def test_a_step_does_not_ask_the_device(name: str) -> None:
    weights = parameters(torch.float32)
    optimizer = built(weights, **ALL[name])
    with NeverAsked():
        for step in range(3):
            take(optimizer, weights, step, finite=step != 1)


@pytest.mark.parametrize("mode", ["norm", "value", "agc"])
def test_clipping_and_sharpness_do_not_ask_the_device(mode: str) -> None:
    weights = parameters(torch.float32)
    clip = build_clipping(weights, OptimConfig(clip_grad=0.1, clip_mode=mode), {})
    for weight, gradient in zip(weights, gradients(0), strict=True):
        weight.grad = gradient.float()
    with NeverAsked():
        clip(torch.nn.utils.get_total_norm([weight.grad for weight in weights]))
        with Sharpness(weights, 0.05).worst():
            pass


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_rate_on_the_device_takes_the_same_steps_and_travels_in_checkpoints_as_a_number(kind: type) -> None:
    """0.25 and 0.125 are the same in float32."""

    def made(on_device: bool) -> tuple[list[nn.Parameter], Steps]:
        weights = parameters(torch.float32)
        halves = [{"params": weights[:1]}, {"params": weights[1:], "weight_decay": 0.0}]
        optimizer = kind(halves, lr=0.0, weight_decay=0.01, fused=True)
        if on_device:
            keep_rate_on_device(optimizer)
        return weights, optimizer

    (ours, one), (theirs, other) = made(True), made(False)
    rate = one.param_groups[0]["lr"]
    for step in range(4):
        for weights, optimizer in ((ours, one), (theirs, other)):
            for weight, gradient in zip(weights, gradients(step), strict=True):
                weight.grad = gradient.float()
            set_rate(optimizer, 0.25 / (1 + step % 2))
            optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        if step == 1:
            state = one.state_dict()
            assert [group["lr"] for group in state["param_groups"]] == [0.125, 0.125]
            assert all(isinstance(group["lr"], float) for group in state["param_groups"])
            one.load_state_dict(copy.deepcopy(other.state_dict()))
            other.load_state_dict(copy.deepcopy(state))
    assert all(group["lr"] is rate for group in one.param_groups)
    assert rate == 0.125


@pytest.mark.parametrize("name", ALL)
def test_a_parameter_without_gradient_keeps_still(name: str) -> None:
    weights = parameters(torch.float32)
    optimizer = built(weights, **ALL[name])
    kept = weights[1].detach().clone()
    for step in range(3):
        for weight, gradient in zip(weights, gradients(step), strict=True):
            weight.grad = gradient.float()
        weights[1].grad = None
        set_rate(optimizer, 0.1)
        optimizer.found_inf = torch.tensor(0.0)
        optimizer.step()
    assert torch.equal(weights[1], kept)
    assert all(weight.isfinite().all() for weight in weights)


def test_muon_moves_matrices_by_orthogonal_updates_and_the_rest_by_adamw() -> None:
    """By its singular values: Newton-Schulz in bfloat16 leaves them in about [0.7, 1.2] (Jordan's post); the scale is
    0.2 sqrt(larger side)."""
    weights = [nn.Parameter(torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last)), *parameters(torch.float32)]
    plain = parameters(torch.float32)
    head = weights[2]
    optimizer = built(weights, {head: frozenset({"fc", "head"})}, opt="muon")
    other = built(plain, opt="adamw")
    before = weights[0].detach().clone()
    weights[0].grad = torch.randn(8, 4, 3, 3)  # not channels_last, as DDP's may be
    take_from = gradients(0)
    for ours, theirs, gradient in zip(weights[1:], plain, take_from, strict=True):
        ours.grad, theirs.grad = gradient.float(), gradient.float()
    for one in (optimizer, other):
        set_rate(one, 0.1)
        one.step()
    moved = (before * (1 - 0.1 * DECAY) - weights[0].detach()).flatten(1)
    values = torch.linalg.svdvals(moved) / (0.1 * 0.2 * math.sqrt(36))
    assert values.min() > 0.5
    assert values.max() < 1.35
    assert torch.equal(weights[2], plain[1])  # the classifier
    assert torch.equal(weights[3], plain[2])  # a gain
    assert not torch.equal(weights[1], plain[0])


def test_muon_is_torchs_on_the_flattened_filters() -> None:
    weights = [nn.Parameter(torch.randn(6, 2, 3, 3))]
    flat = nn.Parameter(weights[0].detach().reshape(6, 18).clone())
    optimizer = built(weights, opt="muon", momentum=0.8)
    theirs = torch.optim.Muon([flat], lr=0.1, weight_decay=DECAY, momentum=0.8, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        weights[0].grad = torch.randn(6, 2, 3, 3, generator=torch.Generator().manual_seed(step))
        flat.grad = weights[0].grad.reshape(6, 18).clone()
        set_rate(optimizer, 0.1)
        optimizer.step()
        theirs.step()
    assert torch.equal(weights[0].flatten(1), flat)


def test_lookahead_is_the_paper() -> None:
    """Slow weights start at the first weights; after every 3 steps both are slow + 0.8 (fast - slow)."""
    weights, plain = parameters(), [w.detach().numpy().copy() for w in parameters()]
    slow, memories = [w.copy() for w in plain], [{} for _ in plain]
    optimizer = built(weights, lookahead=(3, 0.8))
    for step, rate in enumerate(RATES):
        take(optimizer, weights, step)
        each = zip(plain, gradients(step), memories, strict=True)
        plain = [sgd(w, g.numpy(), memory, rate, step + 1) for w, g, memory in each]
        if (step + 1) % 3 == 0:
            slow = [s + 0.8 * (w - s) for s, w in zip(slow, plain, strict=True)]
            plain = [s.copy() for s in slow]
        for weight, expected in zip(weights, plain, strict=True):
            np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-12, atol=1e-13)


def test_lookahead_starts_from_the_weights_of_the_first_step() -> None:
    """Gains of pws start from data after the optimizer is made."""
    weights = parameters()
    optimizer = built(weights, lookahead=(1, 0.5))
    with torch.no_grad():
        weights[0].fill_(100)
    take(optimizer, weights, 0)
    assert weights[0].min() > 90


def test_centralization_takes_the_mean_out_of_gradient_and_decay() -> None:
    """arXiv 2004.01461 with the decay in the gradient; a mean that is zero already stays bit for bit."""
    weights = parameters()
    optimizer = built(weights, gradient_centralization="all", momentum=0.0)
    before = [weight.detach().clone() for weight in weights]
    take(optimizer, weights, 0)
    for weight, old, gradient in zip(weights, before, gradients(0), strict=True):
        slope = gradient + DECAY * old
        if weight.ndim > 1:
            slope -= slope.mean(tuple(range(1, weight.ndim)), keepdim=True)
        torch.testing.assert_close(weight.detach(), old - 0.1 * slope, rtol=1e-12, atol=1e-13)


def test_centralization_of_decoupled_decay_is_of_the_gradient_alone() -> None:
    weights, plain = parameters(), parameters()
    one, other = built(weights, opt="adamw", gradient_centralization="conv"), built(plain, opt="adamw")
    take(one, weights, 0)
    for weight, gradient in zip(plain, gradients(0), strict=True):
        weight.grad = gradient - gradient.mean((1, 2, 3), keepdim=True) if gradient.ndim == 4 else gradient
    set_rate(other, 0.1)
    other.step()
    for ours, theirs in zip(weights, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


def test_el2_is_the_gradient_of_its_penalty() -> None:
    """Of lambda sum over filters of (n - 1) / 2 (s - eps)^2 + n / 2 m^2, by autograd; only filters have it."""
    weights = [
        *parameters(),
        nn.Parameter(torch.randn(4, 1, 3, 3).double()),
        nn.Parameter(torch.ones(2, 3, 1, 1).double()),
    ]
    attended = nn.Parameter(torch.randn(4, 3, 1, 1).double())
    kinds = {attended: frozenset({"conv", "attention"})}
    optimizer = built([*weights, attended], kinds, el2=True, el2_eps=0.3, el2_lambda=0.02, momentum=0.0)
    before = [weight.detach().clone().requires_grad_() for weight in [*weights, attended]]
    for weight in [*weights, attended]:
        weight.grad = torch.zeros_like(weight)
    set_rate(optimizer, 1.0)
    optimizer.step()

    def penalty(weight: Tensor) -> Tensor:
        n = weight[0].numel()
        return ((n - 1) / 2 * (weight.flatten(1).std(1) - 0.3) ** 2 + n / 2 * weight.flatten(1).mean(1) ** 2).sum()

    (expected,) = torch.autograd.grad(0.02 * penalty(before[0]), before[0])
    torch.testing.assert_close(weights[0].detach(), before[0].detach() * (1 - DECAY) - expected, rtol=1e-12, atol=1e-13)
    for weight, old in zip([*weights[1:4], attended], [*before[1:4], before[5]], strict=True):
        torch.testing.assert_close(weight.detach(), old.detach() * (1 - DECAY), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(weights[4].detach(), torch.full_like(weights[4], 1 - DECAY - 0.02))  # no deviation


def test_adaptive_clipping_is_the_paper() -> None:
    """Each filter, row or vector: |g| at most 0.1 max(|w|, 1e-3); the classifier is left alone."""
    weights = [*parameters(), nn.Parameter(torch.randn(5, 6).double())]
    weights[0].data[0] = 0
    given = [*gradients(0), torch.randn(5, 6).double()]
    given[0][1] *= 1e-4  # short enough
    for weight, gradient in zip(weights, given, strict=True):
        weight.grad = gradient.clone()
    clip = build_clipping(weights, OptimConfig(clip_grad=0.1, clip_mode="agc"), {weights[3]: frozenset({"fc", "head"})})
    clip(torch.tensor(1.0))
    for weight, gradient in zip(weights[:3], given[:3], strict=True):
        units = (
            [(weight, gradient, weight.grad)] if weight.ndim == 1 else zip(weight, gradient, weight.grad, strict=True)
        )
        for w, g, clipped in units:
            limit = 0.1 * max(w.norm().item(), 1e-3)
            expected = g * (limit / g.norm()) if g.norm() > limit else g
            torch.testing.assert_close(clipped, expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(weights[0].grad[1], given[0][1])
    assert torch.equal(weights[3].grad, given[3])


def test_clipping_by_value_and_by_norm() -> None:
    weights = parameters()
    for mode in ("value", "norm"):
        for weight, gradient in zip(weights, gradients(0), strict=True):
            weight.grad = gradient.clone()
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights])
        build_clipping(weights, OptimConfig(clip_grad=0.5, clip_mode=mode), {})(norm)
        for weight, gradient in zip(weights, gradients(0), strict=True):
            expected = gradient.clamp(-0.5, 0.5) if mode == "value" else gradient * (0.5 / (norm + 1e-6))
            torch.testing.assert_close(weight.grad, expected)
    assert build_clipping(weights, OptimConfig(), {}) is None


def test_sharpness_goes_uphill_and_comes_back_to_the_very_bits() -> None:
    weights = parameters(torch.float32)
    before = [weight.detach().clone() for weight in weights]
    for weight, gradient in zip(weights, gradients(0), strict=True):
        weight.grad = gradient.float() * 1024  # of a loss that is scaled
    length = torch.cat([gradient.flatten() for gradient in gradients(0)]).norm()
    with Sharpness(weights, 0.05).worst():
        for weight, old, gradient in zip(weights, before, gradients(0), strict=True):
            torch.testing.assert_close(weight.detach(), old + (0.05 * gradient / length).float())
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"opt": "adamw", "momentum": 0.9}, "--momentum 0.9 has no effect on --opt adamw"),
        ({"opt": "sgd", "betas": (0.9, 0.99)}, r"--betas 0.9 0.99 has no effect on --opt sgd"),
        ({"opt": "lion", "eps": 1e-3}, "--eps 0.001 has no effect on --opt lion"),
        ({"opt": "lamb", "rmsprop_alpha": 0.9}, "--rmsprop-alpha 0.9 has no effect on --opt lamb"),
        ({"opt": "sgd", "trust_coefficient": 0.1}, "--trust-coefficient 0.1 has no effect on --opt sgd"),
        ({"opt": "adan", "betas": (0.9, 0.99)}, "--betas of --opt adan are 3 numbers, found 2"),
        ({"opt": "lars", "nesterov": True}, "--nesterov has no effect on --opt lars"),
        ({"opt": "nesterov", "momentum": 0.0}, "--nesterov needs a momentum above 0"),
        ({"opt": "adamw", "lr": None}, "--opt adamw needs --lr or --lr-base"),
        ({"opt": "lars", "fused": "torch"}, "--fused torch: torch has no fused kernel for lars"),
        ({"opt": "lars", "fused": "off"}, "--fused off has no effect on --opt lars"),
        ({"opt": "lion", "fused": "apex"}, "--fused apex: NVIDIA's apex has no lion"),
        ({"opt": "adamw", "el2": True}, "--el2 is a penalty in the gradient"),
        ({"el2_eps": 1e-3}, "--el2-eps 0.001 has no effect without --el2"),
        ({"el2_lambda": 1e-3}, "--el2-lambda 0.001 has no effect without --el2"),
    ],
    ids=str,
)
def test_what_has_no_effect_is_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        built(parameters(), **settings)


def test_what_finds_nothing_to_work_on_is_refused() -> None:
    flat = [nn.Parameter(torch.ones(3))]
    for settings, told in (
        ({"el2": True}, "--el2 has no effect"),
        ({"gradient_centralization": "conv"}, "--gradient-centralization conv has no effect"),
        ({"opt": "muon"}, "--opt muon: the network has no matrices"),
    ):
        with pytest.raises(UsageError, match=told):
            built(flat, **settings)
    with pytest.raises(UsageError, match="--clip-mode agc has no effect without --clip-grad"):
        build_clipping(flat, OptimConfig(clip_mode="agc"), {})


def test_flags_of_optimizers_are_read_from_a_command_line_and_a_recipe() -> None:
    line = "--opt adan --lr 0.1 --betas 0.9 0.8 0.7 --lookahead 5 0.5 --gc all --wd-skip norm bias --clip-grad 1"
    config, _ = read_config(line.split())
    found = config.optim
    assert (found.betas, found.lookahead, found.wd_skip) == ((0.9, 0.8, 0.7), (5, 0.5), ("norm", "bias"))
    assert found.gradient_centralization == "all"
    assert config_from_settings(tomllib.loads(as_toml(config)), "a recipe").optim == found
    for wrong in ("--betas 1 0.9", "--lookahead 0 0.5", "--lookahead 5 0", "--sam 0", "--clip-mode agg", "--opt adam"):
        with pytest.raises(UsageError):
            read_config(wrong.split())


@pytest.mark.parametrize("opt", ["sgd", "nesterov"])
def test_sgd_in_the_order_of_memory_has_torchs_bits(opt: str) -> None:
    torch.manual_seed(0)
    shapes = ((64, 33, 3, 3), (16, 8, 1, 1), (10, 64), (64,))
    weights = [torch.randn(shape) for shape in shapes]
    gradients = [torch.randn(shape) for shape in shapes]
    found = []
    for is_ours in (True, False):
        parameters = [
            nn.Parameter(w.clone(memory_format=torch.channels_last) if w.ndim == 4 else w.clone()) for w in weights
        ]
        groups = [{"params": parameters, "weight_decay": 1e-2}]
        settings = {"momentum": 0.9, "nesterov": opt == "nesterov"}
        ours = (
            build_optimizer(groups, OptimConfig(opt=opt))
            if is_ours
            else torch.optim.SGD(groups, fused=True, **settings)
        )
        for step in range(3):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = torch.empty_like(parameter).copy_(gradient * (step + 1))
            set_rate(ours, 0.1)
            ours.found_inf = torch.tensor(float(step == 1))
            ours.step()
        found.append([p.detach() for p in parameters] + [ours.state[p]["momentum_buffer"] for p in parameters])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
