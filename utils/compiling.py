"""torch.compile for networks: each in place, so that weights keep their names, and before it is replicated.

A replica calls the compiled network from inside DistributedDataParallel, where torch's compiler sees it and cuts the
backward at DDP's buckets (its `optimize_ddp`, in torch 2.11 to 2.15): gradients travel while the rest is computed, as
they do without a compiler. Compiling the replica instead would cut it alike, and leave evaluation without.

Shapes are fixed. The last batch of a validation is filled up with blank images, and images that grow
(--img-size-start) cost a compilation for each size.
"""

import os
import tempfile
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from utils.config import TrainingConfig

BACKEND = "inductor"
CACHE = "TORCHINDUCTOR_CACHE_DIR"
GRAPHS = 64  # of one function, until torch gives up compiling it; torch's own 8 are few for images that grow


def is_compiled(training: TrainingConfig) -> bool:
    """Whether the networks of a run are compiled; auto counts once it is settled."""
    return training.compile not in ("auto", "off")


def how(mode: str) -> dict[str, object]:
    """What torch.compile is told."""
    return {"dynamic": False, "backend": BACKEND} | ({"mode": mode} if BACKEND == "inductor" else {})


def compile_networks(networks: Iterable[nn.Module], mode: str) -> None:
    """From now on each is compiled when it is first called in a new way."""
    os.environ[CACHE] = str(cache_folder())
    torch._dynamo.config.recompile_limit = GRAPHS
    for network in networks:
        network.compile(**how(mode))


def cache_folder() -> Path:
    """Where compiled kernels are kept from one run to the next: where TORCHINDUCTOR_CACHE_DIR says, if the user set it.

    torch sets it too, when it is imported, to a folder that does not outlive a restart of the machine.
    """
    given, temporary = os.environ.get(CACHE), os.path.join(tempfile.gettempdir(), "torchinductor_")
    if given and not given.startswith(temporary):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "train_dist" / "inductor"


def eagerly() -> AbstractContextManager[None]:
    """While it lasts, nothing is compiled, and what was compiled is not used."""
    return torch.compiler.set_stance("force_eager")


def filled_up(images: Tensor, count: int) -> Tensor:
    """(n, side, side, 3) with blank images behind, up to `count` of them."""
    return functional.pad(images, (0, 0, 0, 0, 0, 0, 0, count - len(images)))
