"""The optimizer that the flags ask for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from utils.config import OptimConfig
from utils.errors import EnvironmentFault, UsageError
from utils.optim.decay import Group
from utils.optim.fusing import apex_optimizer
from utils.optim.guarding import Guarded, Steps
from utils.optim.kinds import Kinds, kinds_of
from utils.optim.layerwise import LAMB, LARS
from utils.optim.listwise import Adan, Lion, ListOptimizer, RMSpropTF
from utils.optim.lookahead import Lookahead
from utils.optim.memory_order import MemoryOrderSGD
from utils.optim.muon import ADAMW, MuonWithAdamW
from utils.optim.shaping import Shaped, refuse_without_el2, shapes

Values = dict[str, float | bool | tuple[float, ...]]
NOT_A_MATRIX = frozenset({"head", "depthwise", "other"})


@dataclass(frozen=True)
class Row:
    """One choice of --opt: what builds it from groups, settings, --fused and kinds, and the settings it reads, with
    their values where no flag gives them. `coupled`: weight decay goes through the gradient. `fused`: torch's kernels.
    """

    build: Callable[[list[Group], Values, bool, Kinds], Steps]
    reads: Mapping[str, object] = field(default_factory=dict)
    coupled: bool = False
    fused: bool = False


def build_optimizer(groups: list[Group], config: OptimConfig, kinds: Kinds | None = None) -> Steps:
    """The optimizer of --opt over these groups, and what is around it; its learning rate is set before each step."""
    row, kinds = OPTIMIZERS[config.opt], kinds or {}
    _refuse(config, row)
    values = _values(config, row)
    if config.fused == "apex":
        optimizer = apex_optimizer(config.opt, groups, values)
    else:
        optimizer = row.build(groups, values, config.fused != "off", kinds)
    changes = shapes([p for group in groups for p in group["params"]], config, kinds)
    if changes:
        optimizer = Shaped(optimizer, changes, row.coupled)
    return Lookahead(optimizer, *config.lookahead) if config.lookahead else optimizer


def _values(config: OptimConfig, row: Row) -> Values:
    """What the optimizer reads, from flags or its own. UsageError for a flag that it does not read."""
    given = {name: getattr(config, name) for name in SETTINGS if getattr(config, name) is not None}
    for name, value in given.items():
        if name not in row.reads:
            flag = f"--{name.replace('_', '-')}"
            told = " ".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"
            raise UsageError(f"{flag} {told} has no effect on --opt {config.opt}; leave it out")
    values = {**row.reads, **given}
    if len(values.get("betas", ())) != len(row.reads.get("betas", ())):
        wanted, found = len(row.reads["betas"]), len(values["betas"])
        raise UsageError(f"--betas of --opt {config.opt} are {wanted} numbers, found {found}")
    return values | ({"nesterov": True} if config.nesterov else {})


def _refuse(config: OptimConfig, row: Row) -> None:
    """What has no effect, or not the one that was meant."""
    opt = config.opt
    if config.nesterov and opt != "sgd":
        raise UsageError(f"--nesterov has no effect on --opt {opt}; leave it out")
    if (config.nesterov or opt == "nesterov") and config.momentum == 0:
        raise UsageError("--nesterov needs a momentum above 0, found --momentum 0")
    if opt not in ("sgd", "nesterov") and config.lr is None and config.lr_base is None:
        raise UsageError(f"--opt {opt} needs --lr or --lr-base: the 0.1 without them is meant for sgd")
    if config.fused == "torch" and not row.fused:
        raise UsageError(f"--fused torch: torch has no fused kernel for {opt}; use --fused auto")
    if config.fused == "off" and not row.fused:
        raise UsageError(f"--fused off has no effect on --opt {opt}, which has no fused kernel; leave it out")
    if config.el2 and not row.coupled:
        raise UsageError(f"--el2 is a penalty in the gradient, and --opt {opt} decays apart from it; use --opt sgd")
    refuse_without_el2(config)


def _sgd(groups: list[Group], values: Values, fused: bool, kinds: Kinds) -> Steps:
    """SGD as torch has it, fused: one pass over the weights, and steps that the device itself can skip."""
    kind = torch.optim.SGD if _on_gpu(groups) or not fused else MemoryOrderSGD
    optimizer = kind(groups, lr=0.0, fused=fused, **values)
    if fused and _on_gpu(groups):
        keep_rate_on_device(optimizer)
    if values["momentum"]:  # torch would leave it uninitialized where the first step is skipped, as fp16's often is
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer if fused else Guarded(optimizer)


def _adamw(groups: list[Group], values: Values, fused: bool, kinds: Kinds) -> Steps:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) as torch has it."""
    if fused:
        optimizer = torch.optim.AdamW(groups, lr=0.0, fused=True, **values)
        if _on_gpu(groups):
            keep_rate_on_device(optimizer)
        return optimizer
    return Guarded(torch.optim.AdamW(groups, lr=0.0, fused=False, capturable=_on_gpu(groups), **values))


def _rmsprop(groups: list[Group], values: Values, fused: bool, kinds: Kinds) -> Steps:
    """RMSprop as torch has it: eps outside the root."""
    own = {"alpha": values["rmsprop_alpha"], "eps": values["eps"], "momentum": values["momentum"]}
    return Guarded(torch.optim.RMSprop(groups, lr=0.0, capturable=_on_gpu(groups), **own))


def _rmsprop_tf(groups: list[Group], values: Values, fused: bool, kinds: Kinds) -> Steps:
    own = {"alpha": values["rmsprop_alpha"], "eps": values["eps"], "momentum": values["momentum"]}
    return Guarded(RMSpropTF(groups, own))


def _muon(groups: list[Group], values: Values, fused: bool, kinds: Kinds) -> Steps:
    """Muon with AdamW, torch's both. UsageError if nothing is a matrix."""
    if not hasattr(torch.optim, "Muon"):
        raise EnvironmentFault(f"--opt muon needs a torch that has Muon, 2.9 or later, not {torch.__version__}")
    parameters = [p for group in groups for p in group["params"]]
    matrices = {p for p in parameters if p.ndim > 1 and not kinds_of(p, kinds) & NOT_A_MATRIX}
    if not matrices:
        raise UsageError("--opt muon: the network has no matrices between input and classifier; use --opt adamw")
    adamw = {"betas": values["betas"], "eps": values["eps"]}
    return Guarded(MuonWithAdamW(groups, matrices, {"momentum": values["momentum"]}, adamw))


def _listed(kind: type[ListOptimizer]) -> Callable[[list[Group], Values, bool, Kinds], Steps]:
    """A builder of one of ours, which takes its settings under their names."""

    def build(groups: list[Group], values: Values, fused: bool, kinds: Kinds) -> Steps:
        return Guarded(kind(groups, values))

    return build


def _on_gpu(groups: list[Group]) -> bool:
    """Whether counts of steps belong on the device: elsewhere torch refuses that."""
    return groups[0]["params"][0].is_cuda


def keep_rate_on_device(optimizer: torch.optim.Optimizer) -> None:
    """Give its fused kernels a learning rate on the device, float32, which `set_rate` fills: a captured step reads it
    there. A checkpoint has a plain number all the same, and one from a CPU fills it."""
    rate = torch.zeros((), device=optimizer.param_groups[0]["params"][0].device)

    def as_tensor(optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            group["lr"] = rate.fill_(group["lr"])

    def as_number(optimizer: torch.optim.Optimizer, state: dict[str, list[dict[str, object]]]) -> None:
        for group in state["param_groups"]:
            group["lr"] = float(group["lr"])

    as_tensor(optimizer)
    optimizer.register_load_state_dict_post_hook(as_tensor)
    optimizer.register_state_dict_post_hook(as_number)


SETTINGS = ("momentum", "betas", "eps", "rmsprop_alpha", "trust_coefficient")
OPTIMIZERS = {
    "sgd": Row(_sgd, {"momentum": 0.9, "nesterov": False}, coupled=True, fused=True),
    "nesterov": Row(_sgd, {"momentum": 0.9, "nesterov": True}, coupled=True, fused=True),
    "adamw": Row(_adamw, ADAMW, fused=True),
    "rmsprop": Row(_rmsprop, {"rmsprop_alpha": 0.99, "eps": 1e-8, "momentum": 0.0}, coupled=True),
    "rmsprop_tf": Row(_rmsprop_tf, {"rmsprop_alpha": 0.9, "eps": 1e-10, "momentum": 0.0}, coupled=True),
    "lars": Row(_listed(LARS), {"momentum": 0.9, "trust_coefficient": 0.001}, coupled=True),
    "lamb": Row(_listed(LAMB), {"betas": (0.9, 0.999), "eps": 1e-6}),
    "lion": Row(_listed(Lion), {"betas": (0.9, 0.99)}),
    "muon": Row(_muon, {"momentum": 0.95, **ADAMW}),
    "adan": Row(_listed(Adan), {"betas": (0.98, 0.92, 0.99), "eps": 1e-8}),
}


def set_rate(optimizer: Steps, rate: float) -> None:
    """Use this learning rate in all groups from the next step on."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # where steps can be captured
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
