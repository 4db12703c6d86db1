"""A trace of some steps, for --profile: what ran when, and which operations cost most."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from utils.errors import UsageError

WAIT, WARM_UP = 3, 2  # steps before the trace: without the profiler, and with one that forgets
ROWS, NAME_WIDTH = 40, 80
Item = TypeVar("Item")


def refuse_long_trace(steps: int, left: int) -> None:
    """UsageError if a trace of so many steps does not fit in those that are left."""
    needed = WAIT + WARM_UP + steps
    if needed > left:
        fitting = left - WAIT - WARM_UP
        advice = f"ask for {fitting} at most" if fitting > 0 else "leave it out"
        told = f"--profile {steps} needs {needed} steps, {WAIT + WARM_UP} of them to warm up, and {left} are left"
        raise UsageError(f"{told}; {advice}")


class StepTrace:
    """profile.json.gz, a trace that browsers show, and profile.txt, a table, of so many steps of this process."""

    def __init__(self, steps: int, folder: Path, say: Callable[[str], None]):
        self.steps, self.folder, self.say = steps, folder, say
        on_gpu = torch.cuda.is_available()
        self.cost = "self_device_time_total" if on_gpu else "self_cpu_time_total"
        self.profiler: profile | None = profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])],
            schedule=schedule(wait=WAIT, warmup=WARM_UP, active=steps, repeat=1),
            on_trace_ready=self._write,
            acc_events=True,  # of one cycle there is nothing to clear
        )
        self.written = False

    def over(self, batches: Iterator[Item], batches_per_step: int) -> Iterator[Item]:
        """The same batches. A step begins when the first of its batches is asked for."""
        self.profiler.start()
        for number, batch in enumerate(batches):
            yield batch
            if self.profiler and (number + 1) % batches_per_step == 0:  # asked for the next step's
                self.profiler.step()
                if self.written:
                    self.stop()

    def stop(self) -> None:
        """End a trace whose last step was the run's last."""
        if self.profiler:
            self.profiler.stop()
            self.profiler = None

    def _write(self, profiler: profile) -> None:
        self.written = True
        profiler.export_chrome_trace(str(self.folder / "profile.json.gz"))
        averages = profiler.key_averages()
        table = averages.table(sort_by=self.cost, row_limit=ROWS, max_name_column_width=NAME_WIDTH)
        (self.folder / "profile.txt").write_text(table)
        told = f"{self.folder}/profile.json.gz, for ui.perfetto.dev or chrome://tracing"
        self.say(f"profile    {told}; the costliest operations: {self.folder}/profile.txt")
