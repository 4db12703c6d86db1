"""Contenders in their processes, and the rounds in which they take turns."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from scripts.benchmarking import PATIENCE, why_gone
from scripts.loader_benchmark.contenders import Contender, Setup
from scripts.loader_benchmark.data_forms import ROOT
from scripts.loader_benchmark.measuring import Pass
from utils.errors import EnvironmentFault, TrainingError


class Runner:
    """A contender's process, which is stopped but in its own passes, so that it takes nothing from the others."""

    def __init__(self, contender: Contender, setup: Setup, log: Path) -> None:
        """Start it, and wait for its first batches. EnvironmentFault if something is missing, else TrainingError."""
        self.contender, self._log = contender, log
        words = [contender.name, json.dumps(setup)]
        with open(log, "w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "scripts.loader_benchmark.measuring", *words],
                cwd=ROOT,
                # Whoever limits the threads of all libraries does so for training; here each has its own default.
                env={name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                # Of this session: should this process be killed, the kernel ends the groups that it leaves stopped.
                process_group=0,
            )
        try:
            self._answer("ready")
        except BaseException:
            self.close()
            raise

    def run(self) -> Pass:
        """One pass, alone."""
        os.killpg(self._process.pid, signal.SIGCONT)
        print(file=self._process.stdin, flush=True)
        return Pass(*self._answer("pass"))

    def close(self) -> None:
        """End it and all that it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(PATIENCE)
        self._process.stdin.close()
        self._process.stdout.close()

    def _answer(self, wanted: str) -> list[float]:
        """What it answers under the name `wanted`; then it is stopped."""
        line = self._process.stdout.readline()
        if not line:
            raise TrainingError(why_gone(self._process, self._log))
        answer = json.loads(line)
        if "absent" in answer:
            raise EnvironmentFault(answer["absent"])
        if "failed" in answer:
            raise TrainingError(answer["failed"])
        os.killpg(self._process.pid, signal.SIGSTOP)
        # Until it has stopped the kernel would not end it should this process be killed, and it would stop for good.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        return answer[wanted]


def run_rounds(runners: Sequence[Runner], rounds: int, told: Callable[[int, str, Pass], None]) -> dict[str, list[Pass]]:
    """The passes of each contender, by name. Rounds begin with different ones. TrainingError if one fails."""
    passes: dict[str, list[Pass]] = {runner.contender.name: [] for runner in runners}
    for number in range(rounds):
        first = number * len(runners) // rounds
        for runner in [*runners[first:], *runners[:first]]:
            name = runner.contender.name
            try:
                passes[name].append(runner.run())
            except TrainingError as error:
                raise TrainingError(f"{name} failed in round {number + 1}: {error}") from error
            told(number, name, passes[name][-1])
    return passes
