"""Trains a baseline and one trick at a time over it, and tells what each trick changes and costs.

    python -m scripts.ablate --config recipes/cifar10_resnet20.toml --tricks label-smoothing,mixup,pws \\
        --seeds 3 --data-dir CIFAR --output-dir runs/ablation
    python -m scripts.ablate ... --nproc-per-node 8 --flags "--epochs 30 --workers 8"

Runs of one seed see the same images in the same order, so differences are between pairs. Each run is train_dist.py as
users start it, in a folder of its own; whatever ends this script, the same command goes on where it was. After each run
it writes, to --output-dir: ablation.csv, runs.csv, ablation.md and ablation.png. What a trick is: comparison/tricks.py.
"""

import ctypes
import fcntl
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from scripts.comparison.chart import draw
from scripts.comparison.runs import read_run, read_status
from scripts.comparison.tables import Group, markdown, rows_of, write_csv, write_markdown, write_run_csv
from scripts.comparison.tricks import BASELINE, flags_of
from scripts.drawing import save_png
from utils.config import Config
from utils.config.comparing import changed_settings
from utils.config.parsing import read_config
from utils.errors import StopRequested, TrainingError, UsageError
from utils.log import clock, say
from utils.script import script

PROGRAM = Path(__file__).resolve().parents[1] / "train_dist.py"
UNLOCK_SECONDS = 120.0  # that a run whose ablation was killed may take to save and leave
SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl
RESOLVED = (None, "auto")  # settings that a run replaces by what it found


@checked(frozen=True)
class AblateConfig:
    """Train a baseline and one trick at a time over it, and tell what each trick changes and costs."""

    config: Path
    """recipe of the baseline"""
    tricks: str
    """names with commas between them, such as label-smoothing,mixup,pws; an unknown one lists those there are"""
    data_dir: str
    """data set of all runs"""
    output_dir: Path
    """folder for the runs and what comes out of them"""
    seeds: Annotated[int, Field(ge=1)] = 3
    """runs of each: with seeds 0, 1, 2 and so on; an interval needs two"""
    nproc_per_node: Annotated[int, Field(ge=1)] = 1
    """processes of each run; more than one start through torchrun"""
    flags: str = ""
    """more flags for every run, as one word: "--epochs 2 --workers 1\""""


@dataclass(frozen=True)
class Job:
    """One run of the grid."""

    trick: str
    seed: int
    words: tuple[str, ...]  # of its command line, after train_dist.py
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".txt")


def ablate(config: AblateConfig) -> int:
    """All runs that are left, and the tables after each. The exit code is 1 if a trick could not be trained."""
    jobs = list(grid(config))
    settings = {job: _settings(job) for job in jobs}
    _refuse_idle(jobs, settings)
    config.output_dir.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _stop)
    failed: dict[str, str] = {}
    for number, job in enumerate(jobs, 1):
        place = f"[{number}/{len(jobs)}] {job.trick}, seed {job.seed}"
        if _is_done(job, settings[job]):
            say(f"{place}: done before, {_score(job)}")
            continue
        if job.trick in failed:
            continue
        say(f"{place}: {job.folder}, output in {job.log}")
        begun = time.monotonic()
        if reason := _train(job, config):
            failed[job.trick] = reason
            say(f"{place}: failed: {reason}")
        else:
            say(f"{place}: {_score(job)}, {clock(time.monotonic() - begun)}")
        _write(config, jobs, failed)
    table = _write(config, jobs, failed)
    say(f"\n{table}\nwritten to {config.output_dir}: ablation.md, ablation.csv, runs.csv, ablation.png")
    return 1 if failed else 0


def grid(config: AblateConfig) -> Iterator[Job]:
    """Seed by seed, so that a grid that is cut short is whole for the seeds it has: baseline first, then each trick."""
    common = ["--config", str(config.config), *shlex.split(config.flags)]
    tricks = {BASELINE: [], **flags_of(config.tricks)}
    for seed in range(config.seeds):
        for trick, flags in tricks.items():
            folder = config.output_dir / trick / f"seed_{seed}"
            own = ["--seed", str(seed), "--data-dir", config.data_dir, "--output-dir", str(folder), "--resume", "auto"]
            yield Job(trick, seed, (*common, *flags, *own), folder)


def _settings(job: Job) -> Config:
    try:
        return read_config(job.words)[0]
    except UsageError as error:
        raise UsageError(f"{job.trick}: {error}") from error


def _refuse_idle(jobs: Sequence[Job], settings: dict[Job, Config]) -> None:
    """UsageError for a trick that the baseline has already."""
    baseline = settings[jobs[0]]
    for job in jobs[1:]:
        if job.seed == 0 and _training_of(settings[job]) == _training_of(baseline):
            raise UsageError(f"--tricks {job.trick} changes nothing: the baseline has its flags; leave it out")


def _training_of(config: Config) -> Config:
    """The settings without those of its folder."""
    return replace(config, run=Config().run)


def _is_done(job: Job, wanted: Config) -> bool:
    """Whether a run has come to its end with these settings. UsageError if it did with others."""
    if read_status(job.folder).get("state") != "done":
        return False
    run = read_run(job.folder)
    changes = {
        name: values for name, values in changed_settings(run.config, wanted).items() if values[1] not in RESOLVED
    }
    if changes:
        told = "; ".join(f"{name} was {was}, is {now}" for name, (was, now) in changes.items())
        raise UsageError(f"{job.folder} is done with other settings: {told}; choose another --output-dir")
    return run.is_finished


def _train(job: Job, config: AblateConfig) -> str:
    """Train until the end; why it failed, or nothing. StopRequested if somebody stopped it."""
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    _wait_until_free(job.folder)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={config.nproc_per_node}"]
    command = [sys.executable, *(launcher if config.nproc_per_node > 1 else []), str(PROGRAM), *job.words]
    with job.log.open("a") as log:
        log.write(f"$ {shlex.join(command)}\n")
        log.flush()
        process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=_end_with_parent)
        try:
            code = process.wait()
        except BaseException:
            process.terminate()  # it saves a checkpoint
            process.wait()
            raise
    status = read_status(job.folder)
    if status.get("state") == "done" and not code:
        return ""
    if status.get("exit_code") == StopRequested.exit_code or code == StopRequested.exit_code:
        raise StopRequested(f"{job.folder} was stopped; the same command goes on from there")
    return _reason(job, code)


def _reason(job: Job, code: int) -> str:
    errors = [line for line in job.log.read_text().splitlines() if line.startswith("error: ")]
    reason = errors[-1].removeprefix("error: ") if errors else f"exit code {code}, see {job.log}"
    if job.trick == BASELINE:
        raise TrainingError(f"the baseline cannot be trained: {reason}")
    return reason


def _end_with_parent() -> None:
    """In the child: SIGTERM, upon which it saves, once this script is gone, however it went."""
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def _wait_until_free(folder: Path) -> None:
    """Wait for a run that is still saving since its ablation was killed."""
    deadline = time.monotonic() + UNLOCK_SECONDS
    while _is_locked(folder / ".lock") and time.monotonic() < deadline:
        time.sleep(0.2)


def _is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _stop(number: int, frame: object) -> None:
    raise StopRequested("asked to stop; the same command goes on from there")


def _score(job: Job) -> str:
    run = read_run(job.folder)
    return f"top-1 {run.last('top1'):.2f} %"


def _write(config: AblateConfig, jobs: Sequence[Job], failed: dict[str, str]) -> str:
    """All tables and the picture of what is finished so far; the Markdown table comes back."""
    groups = []
    for trick in dict.fromkeys(job.trick for job in jobs):
        own = [job for job in jobs if job.trick == trick]
        runs = [read_run(job.folder) for job in own if read_status(job.folder).get("state") == "done"]
        left = f"{len(runs)} of {len(own)} runs" if len(runs) < len(own) else ""
        groups.append(Group(trick, runs, f"failed: {failed[trick]}" if trick in failed else left))
    if not groups[0].runs:
        return ""
    rows, folder = rows_of(groups), config.output_dir
    title = f"Tricks over {config.config.stem}"
    write_csv(folder / "ablation.csv", rows)
    write_run_csv(folder / "runs.csv", groups)
    write_markdown(folder / "ablation.md", title, rows)
    save_png(draw(rows, title), folder / "ablation.png")
    return markdown(rows)


if __name__ == "__main__":
    script(AblateConfig, ablate)
