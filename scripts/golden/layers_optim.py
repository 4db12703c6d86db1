"""Golden steps of three ancestors' optimizers, and their groups of parameters with and without weight decay."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models import gain_parameters
from models.interop import dialect_of, our_name, our_tensor
from models.kinds import parameter_kinds
from models.layers import Layers
from models.resnet import ResNetShape, basic, stage
from scripts.golden.comparing import Check, NotOursYet, exact
from scripts.golden.layer import Meta, Outputs
from scripts.golden.networks import build_network, our_network
from utils.config.model import ModelConfig
from utils.config.optim import OptimConfig
from utils.optim import build_optimizer, parameter_groups, set_rate

Arrays = Mapping[str, NDArray[np.float64]]
Weights = dict[str, nn.Parameter]
CLASSES = 1000  # of the ancestors' networks


def _weights(arrays: Arrays) -> Weights:
    """The first weights of a file, in float64."""
    first = {name.removeprefix("w0."): value for name, value in arrays.items() if name.startswith("w0.")}
    return {name: nn.Parameter(torch.tensor(value, dtype=torch.float64)) for name, value in first.items()}


def _steps(arrays: Arrays) -> int:
    return len({name.split(".")[0] for name in arrays if re.match(r"g\d+\.", name)})


def _take(step: int, weights: Weights, optimizer: torch.optim.Optimizer, arrays: Arrays, rate: float) -> Outputs:
    """One step by the gradients of the file; the weights after it."""
    for name, weight in weights.items():
        weight.grad = torch.tensor(arrays[f"g{step}.{name}"], dtype=torch.float64)
    set_rate(optimizer, rate)
    optimizer.step()
    return {f"w{step + 1}.{name}": weight.detach().clone() for name, weight in weights.items()}


def _sgd_settings(hyper: Mapping[str, float]) -> dict[str, object]:
    return {"momentum": hyper.get("momentum", 0.0), "nesterov": hyper.get("nesterov", False)}


def _lookahead(meta: Meta, arrays: Arrays) -> Outputs:
    """The ancestor's slow weights start after its first step, which is then one of SGD alone; ours start before it."""
    hyper, weights = meta["hyper"], _weights(arrays)
    groups = [{"params": list(weights.values()), "weight_decay": hyper["weight_decay"]}]
    config = OptimConfig(lookahead=(hyper["k"], hyper["alpha"]), **_sgd_settings(hyper))
    optimizer = build_optimizer(groups, config)
    found = _take(0, weights, optimizer.inner, arrays, hyper["lr"])
    for step in range(1, _steps(arrays)):
        found |= _take(step, weights, optimizer, arrays, hyper["lr"])
    return found


def _centralized(meta: Meta, arrays: Arrays) -> Outputs:
    hyper, weights = meta["hyper"], _weights(arrays)
    groups = [{"params": list(weights.values()), "weight_decay": hyper["weight_decay"]}]
    optimizer = build_optimizer(groups, OptimConfig(gradient_centralization="conv", **_sgd_settings(hyper)))
    found: Outputs = {}
    for step in range(_steps(arrays)):
        found |= _take(step, weights, optimizer, arrays, hyper["lr"])
    return found


def _shifted(meta: Meta, arrays: Arrays) -> Outputs:
    """The ancestor takes gains of an attention, (1, c, 1, 1), for a filter; ours are vectors, and it skips them."""
    hyper, weights = meta["hyper"], _weights(arrays)
    decayed = {"fc": hyper["fc_weight_decay"]}
    groups = [{"params": [weight], "weight_decay": decayed.get(name, 0.0)} for name, weight in weights.items()]
    own = {"el2": True, "el2_eps": hyper["mineps"], "el2_lambda": hyper["lam"]}
    optimizer = build_optimizer(groups, OptimConfig(**own, **_sgd_settings(hyper)))
    found: Outputs = {}
    for step in range(_steps(arrays)):
        found |= _take(step, weights, optimizer, arrays, hyper["lr"])
    memory = {name: optimizer.inner.state[weight]["momentum_buffer"] for name, weight in weights.items()}
    return found | {f"momentum{_steps(arrays)}.{name}": value for name, value in memory.items()}


def _three_steps_of_pws(meta: Meta, arrays: Arrays) -> Outputs:
    """Loss sum(y * R) in train mode; the gains have a decay of their own."""
    config = ModelConfig(norm="pws", pws_gamma=1e-4, pws_equiv="off", pws_fan="in", pws_gain="one")
    block = stage(ResNetShape(basic, (), order="relu-first"), Layers(config), 6, 10, 2, 1).double().train()
    given = {name.removeprefix("param."): value for name, value in arrays.items() if name.startswith("param.")}
    block.load_state_dict({our_name(n): our_tensor(our_name(n), torch.tensor(v)) for n, v in given.items()})
    hyper = meta["optimizer"]
    optim = OptimConfig(weight_decay=hyper["weight_decay"], alpha_wd=hyper["alpha_wd"], momentum=hyper["momentum"])
    optimizer = build_optimizer(parameter_groups(block, gain_parameters(block), optim), optim)
    x, factor = torch.tensor(arrays["in.x"]).double(), torch.tensor(arrays["gradout.y"]).double()
    found: dict[str, Tensor] = {}
    for step in range(meta["steps"]):
        block.zero_grad()
        loss = (block(x) * factor).sum()
        found[f"out.loss_step{step}"] = loss.detach()
        loss.backward()
        set_rate(optimizer, hyper["lr"])
        optimizer.step()
    state = block.state_dict()
    return found | {f"after{meta['steps']}.{name}": state[our_name(name)] for name in given}


OPTIM_TABLES: dict[str, Callable[[Meta, Arrays], Outputs]] = {
    "torchtoolbox.optimizer.Lookahead": _lookahead,
    "torchtoolbox.optimizer.SGD_GC": _centralized,
    "classification/imagenet_fast.py LSGD": _shifted,
    "classification/imagenet_mobile.py LSGD": _shifted,
    "modules.builder.build_optimizer": _three_steps_of_pws,
}


def _names_without_decay(network: str, optim: OptimConfig) -> tuple[nn.Module, set[str]]:
    """Our network for an ancestor's, and the names of what does not decay."""
    with torch.device("meta"):
        model = build_network(network, CLASSES)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, [], optim, parameter_kinds(model, CLASSES))
    still = [parameter for group in groups if not group["weight_decay"] for parameter in group["params"]]
    return model, {names[parameter] for parameter in still}


def _same(what: str, ours: set[str], theirs: list[str], network: str, all_theirs: list[str]) -> Check:
    """Whether these are the same parameters, by our names; told with the first that is not."""
    dialect = dialect_of(all_theirs)
    named = {our_name(name, our_network(network), dialect) for name in theirs}
    differing = sorted(named ^ ours)
    return exact(f"{what}{': ' * bool(differing)}{', '.join(differing[:3])}", len(differing), 0)


def _insight_groups(facts: Mapping[str, Mapping[str, list[str]]]) -> list[Check]:
    """--nowd-bn is --wd-skip norm, and so on; biases never decay."""
    everything = {network.split("|")[0]: lists["no_decay"] for network, lists in facts.items()}  # the last skips all
    checks = []
    for case, lists in facts.items():
        network, flags = case.split("|")
        kinds = {"nowd_bn": "norm", "nowd_fc": "fc", "nowd_conv": "conv"}
        chosen = [kind for flag, kind in kinds.items() if f"{flag}=True" in flags]
        optim = OptimConfig(wd_skip=("bias", *chosen))
        model, found = _names_without_decay(f"pi__{network}", optim)
        checks.append(_same(case, found, lists["no_decay"], f"pi__{network}", everything[network]))
        checks.append(exact(f"{case}, decaying", len(list(model.parameters())) - len(found), lists["n_decay"]))
    return checks


def _zoo_groups(facts: Mapping[str, Mapping[str, list[str]] | str]) -> list[Check]:
    """--no-wd is --no-wd-bias. A text in the place of lists is an error of the ancestor's."""
    lists = {network: both for network, both in facts.items() if isinstance(both, Mapping)}
    checks = []
    for network, both in lists.items():
        _, found = _names_without_decay(f"mz__{network}", OptimConfig(no_wd_bias=True))
        named = f"mz__{network}"
        checks.append(_same(network, found, both["no_decay"], named, both["decay"] + both["no_decay"]))
    return checks


GROUP_TABLES: dict[str, Callable[[Mapping], list[Check]]] = {
    "pi__set_optimizer_groups": _insight_groups,
    "mz__no_decay_bias_groups": _zoo_groups,
}


def check_groups(path: Path) -> list[Check]:
    """Which parameters decay, of one golden list. NotOursYet for a file that is no such list."""
    if path.stem not in GROUP_TABLES:
        raise NotOursYet("a list of names, not a layer")
    return GROUP_TABLES[path.stem](json.loads(path.read_text()))
