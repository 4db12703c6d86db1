"""Starts train_dist.py as one or several ranks, each forked from a warm interpreter: 1 s a start instead of 6.

torchrun itself is used where it matters: in the demo and in scripts.kill_storm.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["train_dist", "torch.utils.tensorboard"])


def run_rank(arguments: list[str], environment: dict[str, str], output: str) -> None:
    """The body of one rank: a fresh environment, output into a file, and main."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    os.environ.update(environment)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    import torch

    import train_dist

    torch.set_num_threads(1)
    train_dist.main(arguments)
    os._exit(0)  # as a process that ends: no handlers of the test framework


@dataclass
class Launch:
    """Some ranks that run, or ran."""

    ranks: list
    output: Path

    def wait(self, seconds: float = 120) -> "Launch":
        deadline = time.monotonic() + seconds
        for rank in self.ranks:
            rank.join(max(deadline - time.monotonic(), 0.1))
        alive = [rank for rank in self.ranks if rank.is_alive()]
        self.kill()
        assert not alive, f"still running after {seconds} s: {self.text}"
        return self

    def kill(self) -> None:
        """SIGKILL to all ranks at once, as when a machine loses its power."""
        for rank in self.ranks:
            with contextlib.suppress(ProcessLookupError, TypeError):
                os.kill(rank.pid, signal.SIGKILL)
        for rank in self.ranks:
            rank.join()

    def kill_when(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline and any(rank.is_alive() for rank in self.ranks):
            time.sleep(0.01)
        self.kill()

    @property
    def codes(self) -> list[int]:
        return [rank.exitcode for rank in self.ranks]

    @property
    def text(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    @property
    def lines(self) -> list[str]:
        """What was told as error, warning or stop."""
        words = ("error", "warning", "stopped", "Traceback")
        return [line for line in self.text.splitlines() if line.startswith(words)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(processes: int, arguments: list[str], folder: Path) -> Launch:
    """Start this many ranks with these flags; what they print goes to a file in `folder`."""
    output = folder / f"output_{time.monotonic_ns()}.txt"
    common = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = []
    for rank in range(processes):
        place = common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        ranks.append(CONTEXT.Process(target=run_rank, args=(arguments, place, str(output))))
    for rank in ranks:
        rank.start()
    return Launch(ranks, output)


def run(processes: int, arguments: list[str], folder: Path, seconds: float = 120) -> Launch:
    """Start and wait for the end."""
    return start(processes, arguments, folder).wait(seconds)
