"""Contenders in their processes, and the rounds in which they take turns."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from scripts.benchmarking import PATIENCE, why_gone
from scripts.step_benchmark.contenders import ALL, Contender, Setup
from utils.errors import TrainingError

ROOT = Path(__file__).resolve().parents[2]


class Facts(NamedTuple):
    """What a contender found out before its first turn; None where it is hidden, or there is no GPU."""

    start_seconds: float  # from when its libraries were loaded to the end of its first step
    step_seconds: float
    losses: list[float]
    operations: int | None
    limit_seconds: float | None
    kernels: int | None
    gb: float | None = None
    gmac: float | None = None


class Turn(NamedTuple):
    """What one turn took."""

    seconds: float
    cpu_seconds: float  # of all threads: less than `seconds` for each thread where others have the processor
    peak_mib: int
    losses: list[float]


class Runner:
    """A contender's process, which waits but in its own turns."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        """Start it, and wait for its first steps. TrainingError if it does not come so far."""
        self.setup, self._log = setup, folder / "log"
        folder.mkdir(parents=True)
        # Whoever limits the threads of all libraries does so for tests; here --threads says it.
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")  # nobody finds what was compiled before
        with open(self._log, "w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "scripts.step_benchmark.working", json.dumps(setup), str(folder / "run")],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                process_group=0,  # with what compiles for it
            )
        try:
            self.facts = Facts(**self._answer("ready"))
        except BaseException:
            self.close()
            raise

    @property
    def contender(self) -> Contender:
        return ALL[self.setup.contender]

    @property
    def name(self) -> str:
        """Of the contender and its norm."""
        return f"{self.setup.contender} {self.setup.norm}"

    def run(self, steps: int) -> Turn:
        """So many steps, while the others wait."""
        print(steps, file=self._process.stdin, flush=True)
        return Turn(**self._answer("turn"))

    def close(self) -> None:
        """End it and all that it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(PATIENCE)
        self._process.stdin.close()
        self._process.stdout.close()

    def _answer(self, wanted: str) -> dict[str, object]:
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"failed": why_gone(self._process, self._log)}
        if "failed" in answer:
            raise TrainingError(answer["failed"])
        return answer[wanted]


def run_rounds(
    runners: Sequence[Runner], rounds: int, steps: int, told: Callable[[int, str, Turn], None]
) -> dict[str, list[Turn]]:
    """The turns of each, by name. Each round begins with the next one. TrainingError if one fails."""
    turns: dict[str, list[Turn]] = {runner.name: [] for runner in runners}
    for number in range(rounds):
        first = number % len(runners)
        for runner in [*runners[first:], *runners[:first]]:
            try:
                turns[runner.name].append(runner.run(steps // runner.contender.shards))
            except TrainingError as error:
                raise TrainingError(f"{runner.name} failed in round {number + 1}: {error}") from error
            told(number, runner.name, turns[runner.name][-1])
    return turns
