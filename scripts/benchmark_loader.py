"""Measures our loaders and others on the same images, beside the limits that the decoder sets.

    python -m scripts.benchmark_loader --data-dir DIR
    python -m scripts.benchmark_loader --data-dir DIR --engines native torch --peers torchvision,timm --json FILE

DIR is a folder or an LMDB with train/, of so many images as fit into memory; the other forms are made in a temporary
folder. Every contender crops, resizes and mirrors as a training on ImageNet does, with as many threads or processes,
each in a process of its own which lives for all rounds (a gigabyte each). A round gives each of them one pass, while
the others are stopped; a pass begins when all that was loaded in advance is gone. Told are medians over the rounds, the
processor time of the whole process tree, and the memory of its processes. Threads of libraries are not limited, as
users have it: OMP_NUM_THREADS is not handed on. The exit code is 1 if something that is installed did not work.
"""

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass as checked
from tyro.conf import arg

from scripts.loader_benchmark.chart import draw
from scripts.loader_benchmark.contenders import ENGINES, LIMITS, PEERS, Contender, Setup
from scripts.loader_benchmark.data_forms import DataForms
from scripts.loader_benchmark.measuring import Pass
from scripts.loader_benchmark.report import Score, machine, records, score, table
from scripts.loader_benchmark.rounds import Runner, run_rounds
from utils.config.strict import STRICT
from utils.errors import EnvironmentFault, TrainingError, UsageError
from utils.files import write_json
from utils.log import say
from utils.registry import choose
from utils.script import script

Count = Annotated[int, Field(ge=1)]


@checked(frozen=True, config=STRICT)
class BenchmarkConfig:
    """Measure our loaders and others on the same images."""

    data_dir: Annotated[Path, arg(aliases=["--data-path"])]
    """folder or LMDB with train/"""
    engines: tuple[str, ...] = ("native", "torch", "dali-cpu")
    """ours, separated by spaces or commas; NAME-256 and NAME-500 load records of shorter side 256, longer side 500"""
    peers: tuple[str, ...] = ("torchvision", "torchvision-v2", "timm", "ffcv", "webdataset", "dali")
    """others, likewise; NAME-uint8 leaves out what comes after the flip, ffcv-jpeg has no raw pixels in its file"""
    workers: Annotated[Count, arg(aliases=["-j", "--num-workers"])] = 2
    """threads or processes of each"""
    rounds: Count = 4
    """passes of each"""
    images: Count = 1024
    """images of a pass"""
    batch_size: Annotated[Count, arg(aliases=["-b"])] = 64
    """images of a batch"""
    img_size: Count = 224
    """side of a crop, pixels"""
    json: Path | None = None
    """file for the figures"""
    output: Path = Path("benchmark_loader.png")
    """picture to write"""


@dataclass(frozen=True)
class LeftOut:
    """Who does not take part and why; `broken` if it is there but did not work."""

    name: str
    reason: str
    broken: bool

    def __str__(self) -> str:
        return f"{self.name} {'failed' if self.broken else 'is absent'}: {self.reason}"


def benchmark(config: BenchmarkConfig) -> int:
    """Measure what `config` asks for and tell it; 1 if something that is installed did not work."""
    contenders = chosen(config)
    check_outputs(config)
    with tempfile.TemporaryDirectory(prefix="benchmark_loader_") as scratch, ExitStack() as running:
        forms = DataForms(config.data_dir, Path(scratch), config.workers)
        if len(forms.store) < config.batch_size:
            raise UsageError(f"--batch-size {config.batch_size} is more than the {len(forms.store)} training images")
        say(forms.store.describe())
        runners, left_out = start(contenders, forms, config, Path(scratch), running)
        passes = run_rounds(runners, config.rounds, tell_pass)
    scores = [score(runner.contender, passes[runner.contender.name]) for runner in runners]
    tell(scores, left_out, config)
    return int(any(one.broken for one in left_out))


def chosen(config: BenchmarkConfig) -> list[Contender]:
    """The limits, and who was asked for. UsageError at a name that is not known."""
    engines = [choose(ENGINES, name, "--engines") for name in words(config.engines)]
    peers = [choose(PEERS, name, "--peers") for name in words(config.peers)]
    return [*LIMITS.values(), *engines, *peers]


def words(given: Sequence[str]) -> list[str]:
    """The words in `given`, which may be joined by commas; each once."""
    return list(dict.fromkeys(word for joined in given for word in joined.split(",") if word))


def check_outputs(config: BenchmarkConfig) -> None:
    """UsageError before the minutes of measuring if the results could not be written after them."""
    for flag, path in (("--json", config.json), ("--output", config.output)):
        if path is not None and not os.access(path.absolute().parent, os.W_OK):
            raise UsageError(f"{flag} {path}: no folder {path.parent} that can be written to; choose another")


def start(
    contenders: Sequence[Contender], forms: DataForms, config: BenchmarkConfig, scratch: Path, running: ExitStack
) -> tuple[list[Runner], list[LeftOut]]:
    """Those that work, one after another, each with its data; and the others. `running` ends them."""
    runners: list[Runner] = []
    left_out: list[LeftOut] = []
    for row in contenders:
        say(f"starting {row.name} ({row.how})")
        try:
            if not row.is_installed:
                raise EnvironmentFault(f"it is not installed; {row.get}")
            path = str(forms.path(row.form))
            setup = Setup(path, config.workers, config.batch_size, config.img_size, config.images)
            runner = Runner(row, setup, scratch / f"{row.name}.log")
            running.callback(runner.close)
            runners.append(runner)
        except TrainingError as error:
            left_out.append(LeftOut(row.name, str(error), not isinstance(error, EnvironmentFault)))
            say(str(left_out[-1]))
    if not runners:
        raise UsageError("nothing is left to measure")
    return runners, left_out


def tell_pass(number: int, name: str, one: Pass) -> None:
    say(f"round {number + 1}: {name:20} {one.images / one.seconds:6.0f} img/s")


def tell(scores: Sequence[Score], left_out: Sequence[LeftOut], config: BenchmarkConfig) -> None:
    """Print the table, write the figures and the picture."""
    settings = (
        f"medians of {config.rounds} rounds, {config.images} images each; threads or processes: {config.workers}; "
        f"batches of {config.batch_size}; crops of {config.img_size} pixels"
    )
    say(f"\n{table(scores)}\n\n{machine()}\n{settings}")
    for one in left_out:
        say(str(one))
    if config.json:
        write_json(config.json, records(scores))
        say(str(config.json))
    draw(scores, "Training images per second", f"{settings}\n{machine()}").savefig(config.output, format="png")
    say(str(config.output))


if __name__ == "__main__":
    script(BenchmarkConfig, benchmark)
