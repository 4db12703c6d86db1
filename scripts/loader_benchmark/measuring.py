"""A contender in a process of its own: loads when it is told to, and measures itself.

    python -m scripts.loader_benchmark.measuring NAME SETUP      # SETUP: the fields of a Setup, as a JSON list

It says that it is ready once its first batches have come; then each line that it reads starts a pass, of which it
tells the measurements. What it tells are lines of JSON on what was its standard output.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple, TextIO

from scripts.loader_benchmark.contenders import ALL, Setup
from scripts.loader_benchmark.usage import cpu_seconds, family, memory_bytes
from utils.errors import EnvironmentFault

LOOKS = 2  # batches after which the memory is looked at, at each pass


class Pass(NamedTuple):
    """What one pass over so many images took."""

    images: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int


def ahead(setup: Setup) -> int:
    """Images that any loader may have ready or in work: a pass begins when those are gone, to measure making alone."""
    return (2 * setup.workers + 4) * setup.batch_size


def serve(name: str, setup: Setup, replies: TextIO) -> None:
    """Load and measure until the input ends."""
    stream = importlib.import_module(f"scripts.loader_benchmark.{ALL[name].module}").STREAMS[name](setup)
    take(stream, ahead(setup))
    reply(replies, {"ready": name})
    for _ in sys.stdin:
        reply(replies, {"pass": measure(stream, setup)})


def measure(stream: Iterator[int], setup: Setup) -> Pass:
    """One pass, when what was loaded in advance is gone. The memory is looked at afterwards: that takes time."""
    take(stream, ahead(setup))
    processes = family(os.getpid())
    cpu, begun = cpu_seconds(processes), time.perf_counter()
    images = take(stream, setup.images)
    seconds, cpu = time.perf_counter() - begun, cpu_seconds(processes) - cpu
    peak = 0
    for _ in range(LOOKS):
        take(stream, setup.batch_size)
        peak = max(peak, memory_bytes(processes))
    return Pass(images, seconds, cpu, peak)


def take(stream: Iterator[int], images: int) -> int:
    """Load at least so many images; how many."""
    taken = 0
    while taken < images:
        taken += next(stream)
    return taken


def reply(replies: TextIO, content: dict[str, object]) -> None:
    print(json.dumps(content), file=replies, flush=True)


def main(name: str, fields: str) -> int:
    """Serve; 1 if that is not possible, and the reply says why."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print
    try:
        serve(name, Setup(*json.loads(fields)), replies)
    except EnvironmentFault as fault:
        reply(replies, {"absent": str(fault)})
        return 1
    except Exception as error:
        reply(replies, {"failed": " ".join(f"{type(error).__name__}: {error}".split())})
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
