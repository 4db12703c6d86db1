"""Kills training runs at random moments, resumes them, and compares them to the last bit with runs left alone.

    python -m scripts.kill_storm                      # 20 kills over 1, 2 and 4 processes
    python -m scripts.kill_storm --kills 60 --seed 7 --data-dir FOLDER

The images are a folder of small ones, or scikit-learn's handwritten digits if none is given. Each start of a run takes
its turn with the folder or an LMDB of it, and with 0, 1 or 2 loader processes: none of that may leave a trace either.
A kill is SIGKILL to torchrun, its ranks and their loaders at once. Every run that was killed must end with the sha256
of weights, averages and optimizer that the run left alone on as many processes has.
"""

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import arg

from scripts.demo import digits, kill_tree, write_digits
from scripts.generate_lmdb import BuildConfig, generate
from scripts.inspect_checkpoint import content_sum
from utils.checkpoint import load_checkpoint
from utils.errors import TrainingError
from utils.script import script

FLAGS = "--model resnet20 --norm bn --img-size 32 --hflip 0 -b 16 --epochs 3 --warmup-epochs 1 --lr 0.05 --device cpu"
TRICKS = "--model-ema --mixup 0.2 --label-smoothing 0.1 --save-every 4 --log-interval 10 --resume auto"
PROCESSES = (1, 2, 4)
TRAINER = Path(__file__).resolve().parents[1] / "train_dist.py"


@dataclass(frozen=True)
class StormConfig:
    """Kill training runs at random moments, resume them, compare them with runs left alone."""

    data_dir: Path | None = None
    """folder with train/ and val/ of small images; scikit-learn's digits if not given"""
    output_dir: Annotated[Path, arg(aliases=["--save-dir"])] = Path("runs/kill_storm")
    """folder for everything, removed first"""
    kills: int = 20
    """how many, shared among runs of 1, 2 and 4 processes"""
    seed: int = 0
    """seed of the moments"""


class Storm:
    """The runs of one storm, and what it has of data."""

    def __init__(self, config: StormConfig):
        self.folder = config.output_dir
        self.draw = np.random.default_rng(config.seed)
        shutil.rmtree(self.folder, ignore_errors=True)
        images = config.data_dir or self.folder / "digits"
        if config.data_dir is None:
            write_digits(images, *digits())
        generate(BuildConfig(images, self.folder / "lmdb"))
        self.turns = itertools.cycle(itertools.product((images, self.folder / "lmdb"), (0, 1, 2)))

    def start(self, processes: int, output: Path) -> tuple[subprocess.Popen[bytes], str]:
        """Start a run, or let it go on, with the next turn's data and loaders; and what that turn is."""
        data, workers = next(self.turns)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        where = ["--data-dir", str(data), "-j", str(workers), "--output-dir", str(output)]
        with open(self.folder / f"{output.name}.txt", "ab") as log:
            run = subprocess.Popen(
                [*launcher, str(TRAINER), *FLAGS.split(), *TRICKS.split(), "--shards", "4", *where],
                stdout=log,
                stderr=log,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        return run, f"{data.name}, {workers} workers"

    def left_alone(self, processes: int) -> tuple[str, float]:
        """The checksum of a run that nobody touches, and its seconds."""
        begun, output = time.monotonic(), self.folder / f"alone_{processes}"
        run, _ = self.start(processes, output)
        if run.wait():
            raise TrainingError(f"the run left alone failed; see {self.folder / output.name}.txt")
        return content_sum(load_checkpoint(output / "last.pth")), time.monotonic() - begun

    def killed(self, processes: int, number: int, kills: int, seconds: float) -> Iterator[str]:
        """Kill one run at most `kills` times, each time within `seconds` of its start; then let it end.

        Yields a line for each kill, and last the checksum.
        """
        output = self.folder / f"killed_{processes}_{number}"
        for _ in range(kills):
            run, turn = self.start(processes, output)
            moment = self.draw.uniform(0.15, 0.8) * seconds
            try:
                if run.wait(moment) == 0:
                    break
                raise TrainingError(f"a run failed by itself; see {self.folder / output.name}.txt")
            except subprocess.TimeoutExpired:
                count = len(kill_tree(run.pid))
                run.wait()
                yield f"{processes} processes, {turn}: killed {count} processes at {moment:.1f} s, {_reached(output)}"
        run, _ = self.start(processes, output)
        if run.wait():
            raise TrainingError(f"a resumed run failed; see {self.folder / output.name}.txt")
        yield content_sum(load_checkpoint(output / "last.pth"))


def _reached(output: Path) -> str:
    steps = sorted(path.stem for path in output.glob("step_*.json"))
    return f"newest checkpoint {steps[-1]}" if steps else "no checkpoint yet"


def storm(config: StormConfig) -> int:
    """All of it; 1 if a run that was killed ended with other bits."""
    weather = Storm(config)
    share = -(-config.kills // len(PROCESSES))
    done, wrong = 0, 0
    for processes in PROCESSES:
        wanted, seconds = weather.left_alone(processes)
        print(f"{processes} processes, left alone: {wanted[:16]} in {seconds:.0f} s", flush=True)
        left, number = min(share, config.kills - done), 0
        while left > 0:
            number += 1
            *kills, found = _shown(weather.killed(processes, number, left, seconds))
            left, done = left - len(kills), done + len(kills)
            wrong += found != wanted
            verdict = "equal" if found == wanted else "DIFFERENT"
            print(f"{processes} processes, killed {len(kills)} times: {found[:16]} {verdict}", flush=True)
    print(f"{done} kills, {wrong} runs with other bits")
    return 1 if wrong else 0


def _shown(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if "processes" in line:
            print(f"  {line}", flush=True)
        yield line


if __name__ == "__main__":
    script(StormConfig, storm)
