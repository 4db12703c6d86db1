"""A small run inside the process of a test, on random pixels."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import torch

from scripts.assembly import Run, assemble_run, settings_from
from utils import distributed
from utils.ending import Ending

SMALL = "--model resnet20 --img-size 16 --loader synthetic --synthetic-images 80 --synthetic-classes 10 -b 4 --shards 2"
SMALL += " --epochs 2 --warmup-epochs 1 --log-interval 2 -j 0 --lr 0.01"  # 10 steps an epoch


@contextlib.contextmanager
def whole_process() -> Iterator[None]:
    """Gives back what a run sets for a whole process: kernels of --exact, precision of matmuls, signals."""
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    yield
    torch.use_deterministic_algorithms(False)
    for number, handler in signals.items():
        signal.signal(number, handler)


def opened(folder: Path, flags: str, device: str = "cpu") -> Run:
    """A run in `folder`/run, about to take its first step. It stays as it is opened: `train` does not open it anew."""
    config, _ = settings_from([*SMALL.split(), *flags.split(), "--device", device, "--output-dir", str(folder / "run")])
    ending = Ending()
    ending.world = distributed.start(config.training)
    run = assemble_run(config, ending)
    run.open()
    run.open = lambda: None
    run.network.model.train()
    return run
