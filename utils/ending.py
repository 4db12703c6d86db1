"""How a run ends: one line, one exit code, and status.json that keeps both.

torchrun turns every exit code but 0 into 1, and says so at length; status.json is what a job script should read.
"""

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from utils import distributed
from utils.distributed import World
from utils.errors import EnvironmentFault, StopRequested, TrainingError
from utils.files import write_json

SAVING_SECONDS = 600.0  # that ranks wait for the first one's last checkpoint


@dataclass
class Ending:
    """What the end of a run needs to know, filled in as the run comes to know it."""

    world: World | None = None
    folder: Path | None = None  # set once it is this run's own
    lock: object = None  # kept alive as long as the run
    step: int = 0

    def status(self, state: str, exit_code: int | None, reason: str = "") -> None:
        """Write status.json; `state` is running, done, stopped or failed."""
        if self.folder is None:
            return
        newest = sorted(self.folder.glob("step_*.json"))
        content = {
            "state": state,
            "exit_code": exit_code,
            "reason": reason,
            "step": self.step,
            "checkpoint": newest[-1].with_suffix(".pth").name if newest else None,
            "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        with contextlib.suppress(OSError):  # a full disk is told by what filled it
            write_json(self.folder / "status.json", content)


@contextlib.contextmanager
def one_ending(debug: bool) -> Iterator[Ending]:
    """Around a whole run: turns whatever ends it into one line and an exit code. `debug` shows tracebacks as well."""
    ending = Ending()
    try:
        yield ending
    except StopRequested as stop:
        _stop(ending, stop)
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        _fail(ending, error)


def _stop(ending: Ending, stop: StopRequested) -> None:
    """All ranks have agreed on this end: the first one tells, and each leaves by itself once the first has saved."""
    if ending.world.is_first:
        ending.status("stopped", stop.exit_code, str(stop))
        distributed.write_line(f"stopped: {stop}", sys.stderr.fileno())
    with contextlib.suppress(RuntimeError, TrainingError):
        distributed.barrier(ending.world, "the end", SAVING_SECONDS)  # torchrun ends all ranks when one leaves
    distributed.leave(ending.world)
    sys.stdout.flush()
    os._exit(stop.exit_code)


def _fail(ending: Ending, error: BaseException) -> None:
    told = _in_our_words(ending, error)
    if not isinstance(told, TrainingError):
        traceback.print_exc()  # a mistake of ours: the line alone would not help to mend it
        told = TrainingError(f"{type(error).__name__}: {error}")
    distributed.fail(ending.world, told, lambda: ending.status("failed", told.exit_code, str(told)))


def _in_our_words(ending: Ending, error: BaseException) -> BaseException:
    world = ending.world
    if isinstance(error, KeyboardInterrupt):
        return TrainingError("interrupted before the first step; nothing was lost")
    if isinstance(error, torch.OutOfMemoryError):
        peak = torch.cuda.max_memory_allocated() / 2**30
        hint = "use a smaller --batch-size with more --shards, or --precision bf16"
        return EnvironmentFault(f"out of GPU memory at step {ending.step}, peak {peak:.1f} GiB; {hint}")
    if isinstance(error, RuntimeError) and world and world.size > 1 and distributed.is_broken_connection(error):
        return distributed.broken_connection(world, error)
    return error
