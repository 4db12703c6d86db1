"""Weight decay by what a parameter is, and steps that are the ancestor's."""

from collections.abc import Callable

import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models import build_model, gain_parameters
from models.layers import Layers
from models.resnet import ResNetShape, basic, stage
from utils.config import ModelConfig, OptimConfig
from utils.errors import UsageError
from utils.optim import build_optimizer, parameter_groups, set_rate

Golden = Callable[[str], tuple[dict, dict[str, NDArray]]]
NORMS = ["bn", "gn", "pws", "ws", "wn", "in_affine", "none"]


def network(norm: str) -> nn.Module:
    groups = {"norm_groups": 8} if norm in ("gn", "ws") else {}
    return build_model(ModelConfig(model="resnet20", norm=norm, **groups), 10)


def decays(model: nn.Module, optim: OptimConfig) -> dict[str, float]:
    """Parameter name -> its weight decay; each parameter exactly once."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, gain_parameters(model), optim)
    found = [(names[id(p)], group["weight_decay"]) for group in groups for p in group["params"]]
    assert len(found) == len(dict(found)), "a parameter is in two groups"
    return dict(found)


def alpha_decay(norm: str) -> float:
    return 2e-5 if norm == "pws" else 0.0


def test_decay_of_gains_that_are_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="--alpha-wd 2e-05 has no effect"):
        decays(network("bn"), OptimConfig(alpha_wd=2e-5))


@pytest.mark.parametrize("norm", NORMS)
def test_no_parameter_is_lost_or_doubled(norm: str) -> None:
    model = network(norm)
    optim = OptimConfig(weight_decay=3e-4, alpha_wd=alpha_decay(norm), no_wd_bias=True)
    assert decays(model, optim).keys() == dict(model.named_parameters()).keys()
    assert all(group["params"] for group in parameter_groups(model, gain_parameters(model), optim))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("no_wd_bias", [False, True])
def test_weights_decay_and_flat_ones_only_if_asked(norm: str, no_wd_bias: bool) -> None:
    optim = OptimConfig(weight_decay=3e-4, alpha_wd=alpha_decay(norm), no_wd_bias=no_wd_bias)
    found = decays(network(norm), optim)
    # Here, where the networks are known, by name: kernels are .weight of a conv, fc or shortcut.
    for name, decay in found.items():
        layer, _, kind = name.rpartition(".")
        is_norm = "bn" in layer or layer.endswith("downsample.1")
        if kind == "alpha":
            expected = 2e-5
        elif kind == "weight" and not is_norm:
            expected = 3e-4
        else:
            expected = 0.0 if no_wd_bias else 3e-4
        assert decay == expected, name
    kinds = {name.rpartition(".")[2] for name in found}
    assert ("alpha" in kinds) == (norm == "pws")
    assert len(set(found.values())) == (3 if no_wd_bias and norm == "pws" else 1 + (no_wd_bias or norm == "pws"))


def test_frozen_parameters_are_left_out() -> None:
    model = network("bn")
    model.conv1.weight.requires_grad_(False)
    assert decays(model, OptimConfig()).keys() == dict(model.named_parameters()).keys() - {"conv1.weight"}


def ours(name: str) -> str:
    """PWSConv's name of a parameter in a stage of ours."""
    return name.removeprefix("param.").removeprefix("after3.")


def test_three_steps_of_pws_are_the_ancestors(golden: Golden) -> None:
    """Loss sum(y * R) in train mode; alphas without decay, all others, biases included, with it."""
    meta, arrays = golden("pws__build_optimizer_sgd3")
    config = ModelConfig(norm="pws", pws_gamma=1e-4, pws_equiv="off", pws_fan="in", pws_gain="one")
    block = stage(ResNetShape(basic, (), order="relu-first"), Layers(config), 6, 10, 2, 1).double().train()
    state = {ours(name): torch.tensor(value) for name, value in arrays.items() if name.startswith("param.")}
    block.load_state_dict({n: v.reshape(block.state_dict()[n].shape) for n, v in state.items()}, strict=True)

    given = meta["optimizer"]
    optim = OptimConfig(weight_decay=given["weight_decay"], alpha_wd=given["alpha_wd"], momentum=given["momentum"])
    groups = parameter_groups(block, gain_parameters(block), optim)
    names = {id(parameter): name for name, parameter in block.named_parameters()}
    for group in meta["groups"]:
        found = {names[id(p)] for g in groups if g["weight_decay"] == group["weight_decay"] for p in g["params"]}
        assert found == set(group["names"])

    optimizer = build_optimizer(groups, optim)
    x, factor = torch.tensor(arrays["in.x"]).double(), torch.tensor(arrays["gradout.y"]).double()
    for step in range(meta["steps"]):
        optimizer.zero_grad()
        loss = (block(x) * factor).sum()
        assert loss.item() == pytest.approx(float(arrays[f"out.loss_step{step}"]), rel=1e-9)
        loss.backward()
        set_rate(optimizer, given["lr"])
        optimizer.step()
    for name, value in arrays.items():
        if name.startswith("after3."):
            found = block.state_dict()[ours(name)]
            torch.testing.assert_close(found, torch.tensor(value).reshape(found.shape), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_are_the_formula(nesterov: bool, momentum: float) -> None:
    """b <- m b + (g + wd w); w <- w - lr (g + wd w + m b, with Nesterov, else b), the rate another each step."""
    if nesterov and not momentum:
        pytest.skip("refused: another test")
    weight = nn.Parameter(torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    optim = OptimConfig(momentum=momentum, nesterov=nesterov)
    optimizer = build_optimizer([{"params": [weight], "weight_decay": 0.01}], optim)
    by_hand, buffer = weight.detach().numpy().copy(), 0.0
    for step in range(4):
        gradient = torch.full((3, 4), 0.3 * step - 0.5, dtype=torch.float64)
        weight.grad, rate = gradient, 0.1 / (step + 1)
        set_rate(optimizer, rate)
        optimizer.step()
        slope = gradient.numpy() + 0.01 * by_hand
        buffer = momentum * buffer + slope
        by_hand = by_hand - rate * (slope + momentum * buffer if nesterov else buffer)
        torch.testing.assert_close(weight.detach(), torch.tensor(by_hand), rtol=1e-12, atol=1e-14)


def test_rate_is_set_in_all_groups() -> None:
    groups = [{"params": [nn.Parameter(torch.ones(1))], "weight_decay": decay} for decay in (0.0, 0.1)]
    optimizer = build_optimizer(groups, OptimConfig(lr=7.0))
    set_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.1]


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--nesterov needs a momentum above 0, found --momentum 0"):
        build_optimizer([{"params": [nn.Parameter(torch.ones(1))]}], OptimConfig(nesterov=True, momentum=0))


def test_unused_parameter_keeps_still() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = build_optimizer([{"params": [used, unused], "weight_decay": 0.5}], OptimConfig())
    used.grad: Tensor = torch.ones(2)
    set_rate(optimizer, 0.1)
    optimizer.step()
    assert unused.tolist() == [1, 1]
    assert used.tolist() == pytest.approx([0.85, 0.85])
