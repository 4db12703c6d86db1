"""Weights in: torchvision's and timm's files, the ancestors', and our own, brought to our names and shapes.

Whatever a file calls things is a row of a table here, and nowhere else. Rows apply to every file: their patterns are so
narrow that no other ancestor's names match.
"""

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from models.interop.families import Rows, dialect_of, rows_for
from models.interop.files import load_file
from models.interop.lambdanet import LAMBDA_TENSORS
from models.outside import AUXILIARY, is_outside
from utils.errors import CheckpointError

CONTAINERS = ("state_dict", "model")  # the trainers of four ancestors; ModelZoo.pytorch (seeds.md 7)
AVERAGES = ("state_dict_ema", "model_ema", "state_dict_swa")  # timm and this trainer; torchvision; this one's equal
AVERAGE_COUNTER = "n_averaged"
SHOWN = 8  # tensors of each kind named in an error

WRAPPERS = ((r"(?<![^.])(module|_orig_mod)\.", ""),)  # DataParallel and DistributedDataParallel; torch.compile
# (pattern, replacement), applied one after the other to every name in files of our networks.
NAMES = (
    # PWSConv: three parts in one file; norms are called norm, and the one before the head is the neck's.
    (r"^backbone\.", ""),
    (r"^neck\.norm\.", "bn_last."),
    (r"^head\.fc\.", "fc."),
    (r"^((?:layer\d\.)?(?:\d+\.)?)norm(\d)\.", r"\1bn\2."),  # not DenseNet's, which are deeper
)


def _matrix(weight: Tensor) -> Tensor:
    """ModelZoo's hidden linear layers of MobileNetV3 and GhostNet are 1x1 convolutions."""
    return weight[:, :, 0, 0] if weight.shape[2:] == (1, 1) else weight


def _as_vector(value: Tensor) -> Tensor:
    return value.flatten() if value.numel() == max(value.shape, default=0) else value


def _as_1x1(value: Tensor) -> Tensor:
    """The kernel of a 1x1 convolution for the weight of a linear layer."""
    return value[..., None, None] if value.ndim == 2 else value


# (pattern, how its tensor becomes ours), for names after `NAMES`.
TENSORS: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
    (r"(?<![^.])alpha$", torch.flatten),  # PWSConv keeps its gains as (c_out, 1, 1, 1)
    *LAMBDA_TENSORS,
    # PytorchInsight: gains of gates are (1, g, 1, 1) or (1, g), of bng2 (c / 2, 1); squeeze and excitation are linear.
    (r"(?<![^.])attention\.((add|mul)\.norm\.)?(weight|bias)$", _as_vector),  # GC's norm has (c, 1, 1)
    (r"(?<![^.])attention\.(fc[12]|channel\.(fc[12]|[03]))\.weight$", _as_1x1),
    (r"(?<![^.])bn(\d|_last)\.(weight|bias|v|running_var)$", _as_vector),  # ModelZoo's EvoNorm has (1, c, 1, 1)
    (r"^(conv[15]|stage\d\.\d+\.branch\d)\.\d\.(weight|bias)$", _as_vector),
    (r"^classifier\.0\.weight$", _matrix),
)

# What a file without neck and head lacks (PWSConv's process_ckpt.py writes such files).
HEAD = re.compile(r"^(bn_last|fc)\.")
COUNTER = "num_batches_tracked"  # files older than torch 0.4.1 lack it; only momentum=None would read it


def read(path: str | Path, network: str = "", *, average: bool = False) -> dict[str, Tensor]:
    """The weights in a file, under our names. CheckpointError if it cannot be read.

    `network` is our name of the network that they are for; files of ResNets need none. With `average` it is their
    moving average.
    """
    checkpoint = load_file(path)
    if not average:
        return unwrap(checkpoint, network)
    for key in AVERAGES:
        if isinstance(checkpoint.get(key), Mapping):
            weights = {name: value for name, value in checkpoint[key].items() if name != AVERAGE_COUNTER}
            return unwrap(weights, network)
    raise CheckpointError(f"{path} holds no average of the weights: expected one of {AVERAGES}")


def unwrap(checkpoint: Mapping[str, object], network: str = "") -> dict[str, Tensor]:
    """The weights of a checkpoint, bare or in a container, under our names and in our shapes; halves become floats."""
    for key in CONTAINERS:
        if isinstance(checkpoint.get(key), Mapping):
            return unwrap(checkpoint[key], network)
    strangers = [name for name, value in checkpoint.items() if not isinstance(value, Tensor)]
    if strangers or not checkpoint:
        raise CheckpointError(f"no weights here: expected tensors, or one of {CONTAINERS}, found {_some(strangers)}")
    dialect = dialect_of(checkpoint)
    weights = {our_name(name, network, dialect): value for name, value in checkpoint.items()}
    if len(weights) != len(checkpoint):
        raise CheckpointError("two tensors of this file have the same name without their prefixes")
    if is_outside(network):  # their tensors are as they are, but for classifiers that we build them without
        return {name: _widened(value) for name, value in weights.items() if not AUXILIARY.match(name)}
    return {name: our_tensor(name, value) for name, value in weights.items()}


def our_name(name: str, network: str = "", dialect: Rows = ()) -> str:
    """What we call the tensor that a file of `network` calls `name`; `dialect` is what its other names told."""
    ours = () if is_outside(network) else (*NAMES, *dialect)
    for pattern, replacement in (*WRAPPERS, *ours, *rows_for(network)):
        name = re.sub(pattern, replacement, name)
    return name


def our_tensor(name: str, value: Tensor) -> Tensor:
    """The tensor that we keep under `name`."""
    for pattern, convert in TENSORS:
        if re.search(pattern, name):
            value = convert(value)
    return _widened(value)


def _widened(value: Tensor) -> Tensor:
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], *, may_lack: Collection[str] = ()) -> None:
    """Give `model` the weights that `unwrap` found. CheckpointError, and nothing loaded, unless each has its place.

    Tensors of the model that the weights `may_lack` keep what they have.
    """
    if problems := misfits(model, weights, may_lack=may_lack):
        found = "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in problems.items())
        raise CheckpointError(f"the weights do not fit the network: {found}")
    model.load_state_dict({**model.state_dict(), **weights})


def misfits(model: nn.Module, weights: Mapping[str, Tensor], *, may_lack: Collection[str] = ()) -> dict[str, list[str]]:
    """What has no place, by name and shape: `missing` in the weights, `unexpected` there, and of an `other shape`."""
    ours = model.state_dict()
    optional = {name for name in ours if name.endswith(COUNTER) or name in may_lack}
    shapes = {name for name in ours.keys() & weights.keys() if ours[name].shape != weights[name].shape}
    problems = {
        "missing": [_shape(name, ours[name]) for name in ours if name not in weights and name not in optional],
        "unexpected": [_shape(name, weights[name]) for name in weights if name not in ours],
        "other shape": [f"{_shape(name, weights[name])} for {tuple(ours[name].shape)}" for name in sorted(shapes)],
    }
    return {kind: names for kind, names in problems.items() if names}


def _shape(name: str, tensor: Tensor) -> str:
    return f"{name} {tuple(tensor.shape)}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more if names else "nothing"
