"""Hands batches to a training loop and, between them, times, counts and waits for its turn.

The loops are their owners': ours is train_dist's `train_epoch`, those of peers are as their scripts have them. All they
share is that they ask for the next batch, and what happens then is here: the loop is held until this contender's turn
has come, and the clock stands still.
"""

import json
import os
import re
import resource
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TextIO, TypeVar

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile

from scripts.step_benchmark.contenders import ALL, Setup
from scripts.step_benchmark.counting import Counting, Rates, wait_for

EQUAL_STEPS = 8  # whose losses are held against those of the same steps without a compiler
WARMING_STEPS = {"cpu": 1, "cuda": 3}  # of each turn, outside its time: caches are the others'
PROBED_STEPS = 2  # that tell how long a step is
Item = TypeVar("Item")


class Pace:
    """One contender's turns. `losses` are of the steps so far, as tensors or numbers, which the loops append."""

    def __init__(self, setup: Setup, replies: TextIO) -> None:
        self.setup, self.contender, self._replies = setup, ALL[setup.contender], replies
        self.losses: list[Tensor | float] = []
        self._before, self._begun = resident_bytes(), time.perf_counter()  # libraries are loaded, nothing else

    def over(self, batches: Iterator[Item]) -> Iterator[Item]:
        """The same batches, as long as turns are given."""
        yield from self._start(batches)
        for line in sys.stdin:
            yield from self._take(batches, WARMING_STEPS[self.setup.device])
            wait_for(self.setup.device)
            begun, used = time.perf_counter(), time.process_time()
            yield from self._take(batches, int(line))
            wait_for(self.setup.device)
            times = {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - used}
            self._reply("turn", times | {"peak_mib": self._peak() >> 20, "losses": self._read()})
            self._make_room()

    def _take(self, batches: Iterator[Item], steps: int) -> Iterator[Item]:
        """The batches of so many steps; it comes back when the loop asks for one more."""
        return islice(batches, steps * self.contender.shards)

    def _start(self, batches: Iterator[Item]) -> Iterator[Item]:
        """What comes before the first turn: steps that compile, that are compared, that are counted."""
        yield from self._timed(batches, 1)
        start = time.perf_counter() - self._begun
        yield from self._take(batches, EQUAL_STEPS - 1 - PROBED_STEPS)
        step = (yield from self._timed(batches, PROBED_STEPS)) / PROBED_STEPS
        losses = self._read()
        facts = {"start_seconds": start, "step_seconds": step, "losses": losses}
        facts |= yield from self._counted(batches)
        self._make_room()
        self._forget_peak()
        self._reply("ready", facts)

    def _timed(self, batches: Iterator[Item], steps: int) -> Generator[Item, None, float]:
        """Seconds of so many steps."""
        wait_for(self.setup.device)
        begun = time.perf_counter()
        yield from self._take(batches, steps)
        wait_for(self.setup.device)
        return time.perf_counter() - begun

    def _counted(self, batches: Iterator[Item]) -> Generator[Item, None, dict[str, float | None]]:
        """One step more, or two: operations, bytes and limit, where nothing hides them; and kernels of a GPU."""
        found: dict[str, float | None] = {"operations": None, "limit_seconds": None, "kernels": None}
        hidden = bool(self.contender.eager)  # by a compiler, or in kernels that torch does not know
        counting = Counting(Rates(self.setup.bandwidth, self.setup.multiply_adds))
        yield from self._within(nullcontext() if hidden else counting, batches)
        if not hidden:
            found |= {"operations": counting.operations, "limit_seconds": counting.seconds}
            found |= {"gb": counting.moved / 1e9, "gmac": counting.multiply_adds / 1e9}
        if self.setup.device == "cuda":
            profiling = profile(activities=[ProfilerActivity.CUDA])
            yield from self._within(profiling, batches)
            found["kernels"] = sum(event.count for event in profiling.key_averages() if _is_kernel(event))
        self._read()
        return found

    def _within(self, context: AbstractContextManager[object], batches: Iterator[Item]) -> Iterator[Item]:
        """One step, from the batch to the next question, inside of a context."""
        wait_for(self.setup.device)
        with context:
            yield from self._take(batches, 1)
            wait_for(self.setup.device)

    def _read(self) -> list[float]:
        """The losses since the last reading, a step's as one."""
        numbers = [float(loss) for loss in self.losses]
        self.losses.clear()
        shards = self.contender.shards
        return [sum(numbers[at : at + shards]) / shards for at in range(0, len(numbers) - shards + 1, shards)]

    def _peak(self) -> int:
        """Bytes: most that tensors took on the GPU; or most that was resident, beyond the libraries."""
        if self.setup.device == "cuda":
            return torch.cuda.max_memory_allocated()
        return max(peak_resident_bytes() - self._before, 0)

    def _make_room(self) -> None:
        """The others need the GPU's memory."""
        if self.setup.device == "cuda":
            torch.cuda.empty_cache()

    def _forget_peak(self) -> None:
        """What compiling and counting took is no part of a step."""
        if self.setup.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): sets VmHWM back

    def _reply(self, name: str, content: object) -> None:
        print(json.dumps({name: content}), file=self._replies, flush=True)


def _is_kernel(event: FunctionEventAvg) -> bool:
    """Whether it ran on the GPU, and is neither a copy nor the name of a part of the program."""
    named = getattr(event, "is_user_annotation", False) or event.key.startswith(("Memcpy", "Memset"))
    return event.device_type == DeviceType.CUDA and not named


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_resident_bytes() -> int:
    """The most of it since the last `_forget_peak`."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) << 10 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
