"""Prints what a checkpoint holds, and one sha256 over all tensors of its weights, averages and optimizer.

    python -m scripts.inspect_checkpoint FILE
    python -m scripts.inspect_checkpoint FILE --sha256      # nothing but the sum, to compare two runs

The sum is of contents: neither the file's name, nor the order or memory layout of its tensors, nor anything else that a
checkpoint tells of its run enters it. Two runs with equal sums have the same weights to the last bit.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor
from tyro.conf import Positional, arg

from utils.checkpoint import State, load_checkpoint, manifest_of
from utils.script import script

PARTS = {
    "weights": "state_dict",
    "averages": "state_dict_ema",
    "equal averages": "state_dict_swa",
    "optimizer": "optimizer",
}
Key = tuple[str, ...]


@dataclass(frozen=True)
class InspectConfig:
    """Print what a checkpoint holds, and one sha256 over all tensors of its weights, averages and optimizer."""

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """checkpoint, such as RUN/last.pth"""
    sha256: bool = False
    """print the sum alone"""


def content_sum(state: State) -> str:
    """sha256, in hex, over key path, type, shape and bytes of every tensor of weights, averages and optimizer."""
    total = hashlib.sha256()
    content = {name: state[name] for name in PARTS.values() if name in state}
    for key, tensor in sorted(tensors_of(content), key=lambda pair: pair[0]):
        total.update(json.dumps([key, str(tensor.dtype), list(tensor.shape)]).encode())
        total.update(_bytes(tensor))
    return total.hexdigest()


def tensors_of(content: object, key: Key = ()) -> Iterator[tuple[Key, Tensor]]:
    """Every tensor inside nested dicts, lists and tuples, each with the path of keys that leads to it."""
    if isinstance(content, Tensor):
        yield key, content
        return
    if isinstance(content, list | tuple):
        content = dict(enumerate(content))
    for name, value in content.items() if isinstance(content, dict) else ():
        yield from tensors_of(value, (*key, str(name)))


def _bytes(tensor: Tensor) -> bytes:
    """The elements in the order of their indices, whatever their order in memory."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def facts(path: Path, state: State) -> dict[str, str]:
    """What is printed of a checkpoint that `load_checkpoint` has read, and so found whole."""
    config, manifest = state["config"], json.loads(manifest_of(path.resolve()).read_text())
    best = f"top-1 {state['metric']:.3f} % at step {state['metric_step']}" if state["metric_step"] >= 0 else "none yet"
    return {
        "file": f"{path.resolve()}, {manifest['size']:,} bytes",
        "manifest": f"right: sha256 of the file {manifest['sha256']}",
        "network": f"{state['arch']}, norm {config['model']['norm']}",
        "precision": str(config["training"]["precision"]),
        "position": f"epoch {state['epoch']}, step {state['step']}",
        "best": best,
        "seed": str(state["seed"]),
        "shards": f"{state['shards']} of {config['training']['batch_size']} images",
        **{f"data {kind}": str(value) for kind, value in state["data"].items()},
        "written by": ", ".join(f"{name} {version}" for name, version in state["numerics"].items()),
        **{part: _size(state.get(name)) for part, name in PARTS.items()},
        "content": f"sha256 {content_sum(state)}",
    }


def _size(part: object) -> str:
    """`62 tensors, 272,634 numbers, 1.04 MiB`, or that there are none."""
    tensors = [tensor for _, tensor in tensors_of(part)]
    numbers, size = sum(t.numel() for t in tensors), sum(t.nbytes for t in tensors)
    return f"{len(tensors)} tensors, {numbers:,} numbers, {size / 2**20:.2f} MiB" if tensors else "none"


def inspect(config: InspectConfig) -> None:
    """Print what `config` asks for."""
    state = load_checkpoint(config.file)
    if config.sha256:
        print(content_sum(state))
        return
    for name, value in facts(config.file, state).items():
        print(f"{name:14} {value}")


if __name__ == "__main__":
    script(InspectConfig, inspect)
