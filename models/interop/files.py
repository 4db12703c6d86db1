"""Files of weights, read and written: torch's own, and safetensors.

Nothing in a file is ever executed: torch's are read with an explicit weights_only=True, safetensors holds no code.
"""

import json
import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from torch import Tensor

from utils.checkpoint import load_checkpoint
from utils.errors import CheckpointError, EnvironmentFault
from utils.files import write_atomically

SAFETENSORS = ".safetensors"
OURS = "step_*.pth"  # checkpoints with a manifest, whose sum is checked before they are read
# timm's and torchvision's trainers keep their flags beside the weights, others numpy's numbers, under either name of
# numpy's function. None of these runs code of the file's.
NUMBER = np._core.multiarray.scalar
NUMBERS = [np.dtype, *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd")]
HARMLESS = [Namespace, *NUMBERS, (NUMBER, "numpy.core.multiarray.scalar"), (NUMBER, "numpy._core.multiarray.scalar")]
FOREIGN = re.compile(r"GLOBAL (\S+) was not an allowed global")
UNREADABLE = (OSError, RuntimeError, UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError)


def load_file(path: str | Path) -> Mapping[str, object]:
    """Whatever mapping a file holds. CheckpointError if it cannot be read or holds none."""
    path = Path(path)
    if path.resolve().match(OURS):
        return load_checkpoint(path)
    try:
        content = _load_safetensors(path) if path.suffix == SAFETENSORS else _load_torch(path)
    except UNREADABLE as error:
        raise CheckpointError(f"{path} cannot be read as weights: {_reason(error)}") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not named tensors")
    return content


def _reason(error: Exception) -> str:
    """Why a file cannot be read. torch's own words advise to let it run code."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if found := FOREIGN.search(str(error)):
        return f"it holds a {found[1]}; only tensors and plain values are read, as others might run code"
    return "it is damaged, or was not written by torch.save"


def _load_torch(path: Path) -> object:
    with torch.serialization.safe_globals(HARMLESS):
        return torch.load(path, map_location="cpu", weights_only=True)


def _load_safetensors(path: Path) -> dict[str, object]:
    """The tensors, in the container `state_dict`, and beside it the JSON values of the file's header."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise _absent(path) from error
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            return _decoded(header) | {"state_dict": {name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be read as weights: {error}") from error


def _decoded(header: Mapping[str, str]) -> dict[str, object]:
    """Values that `save_file` wrote as JSON; another writer's stay words."""
    decoded: dict[str, object] = {}
    for name, words in header.items():
        try:
            decoded[name] = json.loads(words)
        except ValueError:
            decoded[name] = words
    return decoded


def save_file(path: Path, weights: Mapping[str, Tensor], facts: Mapping[str, object]) -> None:
    """Write weights, atomically: bare if there are no `facts` about them, else as `state_dict` beside these.

    A name that ends in .safetensors gives that format, with the facts as JSON in its header.
    """
    # A view into another tensor would take that whole tensor into the file, and safetensors refuses it.
    weights = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in weights.items()
    }
    if path.suffix != SAFETENSORS:
        content = {**facts, "state_dict": weights} if facts else weights
        write_atomically(path, lambda file: torch.save(content, file))
        return
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise _absent(path) from error
    header = {name: json.dumps(value) for name, value in facts.items()}
    write_atomically(path, lambda file: file.write(save(weights, {"format": "pt", **header})))


def _absent(path: Path) -> EnvironmentFault:
    return EnvironmentFault(f"{path} needs the package safetensors; pip install safetensors, or '.[export]'")
