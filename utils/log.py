"""What a run tells: a line of progress, metrics.jsonl, TensorBoard, metrics.csv.

metrics.jsonl is the truth and is on the disk before any checkpoint that follows it. A resumed run cuts it at the step
it goes on from and writes TensorBoard's events anew from what is left, so that neither has gaps or doubles. The table
metrics.csv, with a row for each epoch, is made anew from metrics.jsonl at every validation.
"""

import csv
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from utils.distributed import write_line
from utils.files import write_atomically

Values = dict[str, float]
ERASE = "\r\x1b[2K"  # a terminal's current line
MEANS = ("train/", "perf/", "time/")  # of which a line tells the mean since the line before
WEIGHTS = "weights"  # what --weight-stats tells of


class History:
    """The numbers of a run, by step."""

    def __init__(self, folder: Path, resumed_step: int, validated: bool = True):
        """Keep what was told up to `resumed_step`; its validation only if the checkpoint is of after it."""
        self.path = folder / "metrics.jsonl"
        kept = [line for line in read_history(folder) if line["step"] <= resumed_step] if resumed_step else []
        kept = [line for line in kept if validated or line["step"] < resumed_step or "val/top1" not in line]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomically(self.path, lambda file: file.write(text.encode()))
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self.board = SummaryWriter(str(folder / "tensorboard"))
        for line in kept:
            self._show(line)
        self.file = self.path.open("a")
        self.warned = False

    def add(self, step: int, values: Values) -> None:
        """Append one line. A full disk does not stop the run; it is said once."""
        line = {"step": step, "time": round(time.time(), 3), **values}
        try:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
            self._show(line)
        except OSError as error:
            self._warn(error)

    def _show(self, line: Values) -> None:
        for name, value in line.items():
            if "/" in name:
                self.board.add_scalar(name, value, int(line["step"]), walltime=line["time"])

    def flush(self) -> None:
        """Everything told so far is on the disk afterwards."""
        try:
            os.fsync(self.file.fileno())
            self.board.flush()
        except OSError as error:
            self._warn(error)

    def write_epochs(self, steps_per_epoch: int) -> None:
        """Bring metrics.csv up to date."""
        try:
            write_epochs(self.path.parent, steps_per_epoch)
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        if not self.warned:
            say(f"warning: {self.path} cannot be written ({error.strerror}); training goes on without it")
        self.warned = True

    def close(self) -> None:
        self.flush()
        self.board.close()
        self.file.close()


def read_history(folder: Path) -> list[Values]:
    """The lines of a run's metrics.jsonl, without the torn one that a kill may leave at the end."""
    return list(_whole_lines(folder / "metrics.jsonl"))


def _whole_lines(path: Path) -> Iterator[Values]:
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def write_epochs(folder: Path, steps_per_epoch: int) -> None:
    """metrics.csv from metrics.jsonl: for each epoch the values of its last line that has them, but for `train/` and
    `perf/` the mean over its lines, each weighed by the steps that it tells of. Values of single weights are left out.
    """
    rows: dict[int, Values] = {}
    weights: dict[tuple[int, str], int] = {}
    told = 0
    for line in read_history(folder):
        epoch = (line["step"] - 1) // steps_per_epoch + 1
        row, steps = rows.setdefault(epoch, {}), max(line["step"] - told, 1)
        told = line["step"]
        for name, value in line.items():
            if name.startswith(MEANS):
                seen = weights.get((epoch, name), 0)
                row[name] = (row.get(name, 0.0) * seen + value * steps) / (seen + steps)
                weights[epoch, name] = seen + steps
            elif not name.startswith((WEIGHTS, "time")):
                row[name] = value
    _write_table(folder / "metrics.csv", [{"epoch": epoch, **row} for epoch, row in rows.items()])


def _write_table(path: Path, rows: list[Values]) -> None:
    names = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


class IndexLog:
    """Which images each shard of each step used, for whoever wants to check: indices_rank0.jsonl and so on."""

    def __init__(self, folder: Path, rank: int):
        self.file = (folder / f"indices_rank{rank}.jsonl").open("a", buffering=1)

    def add(self, step: int, shard: int, indices: list[int]) -> None:
        self.file.write(json.dumps({"step": step, "shard": shard, "indices": indices}) + "\n")


def cut_index_logs(folder: Path, step: int) -> None:
    """Forget what was logged of steps that a resumed run takes again."""
    for path in folder.glob("indices_rank*.jsonl"):
        kept = [line for line in _whole_lines(path) if line["step"] < step]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))


class Progress:
    """The line that says how far a run is: one line rewritten on a terminal, lines elsewhere."""

    def __init__(self, steps: int, steps_per_epoch: int, global_batch: int):
        self.steps, self.steps_per_epoch, self.global_batch = steps, steps_per_epoch, global_batch

    def show(self, step: int, values: Values) -> None:
        """`step` steps are done. The ETA is of the whole run, at the rate of the last interval, without validation."""
        left = (self.steps - step) * self.global_batch / max(values["perf/img_per_s"], 1e-9)
        epoch = min((step - 1) // self.steps_per_epoch + 1, self.steps // self.steps_per_epoch)
        parts = [
            f"epoch {epoch}/{self.steps // self.steps_per_epoch}",
            f"step {step}/{self.steps}",
            f"loss {values.get('train/loss', float('nan')):.4f}",
            f"top-1 {values.get('train/top1', float('nan')):.2f} %",
            f"lr {values['optim/lr']:.3g}",
            f"{values['perf/img_per_s']:.0f} img/s",
            f"waiting for data {100 * values['perf/data_wait']:.0f} %",
            *_split(values),
            f"{values['mem/peak_gib']:.2f} GiB",
            f"ETA {clock(left)}",
        ]
        if values.get("amp/skipped_steps"):
            parts.append(f"skipped {values['amp/skipped_steps']:.0f}")
        if values.get("data/bad_images"):
            parts.append(f"bad images {values['data/bad_images']:.0f}")
        line = "  ".join(parts)
        if sys.stdout.isatty():
            line = line[: shutil.get_terminal_size().columns - 1]
            write_line(f"{ERASE}{line}", 1, end="")
        else:
            write_line(line, 1)


def _split(values: Values) -> Iterator[str]:
    """The parts of a step that take a percent of it or more, but the wait for data, which is told anyway."""
    spent = {name.removeprefix("time/"): value for name, value in values.items() if name.startswith("time/")}
    whole = sum(spent.values()) or 1.0
    shares = {part: round(100 * seconds / whole) for part, seconds in spent.items() if part != "data_wait"}
    if told := " ".join(f"{part} {share}" for part, share in shares.items() if share):
        yield f"{told} %"


def clock(seconds: float) -> str:
    """1:02:03, or 4d 1:02:03."""
    days, rest = divmod(int(seconds), 86400)
    text = f"{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}d {text}" if days else text


def say(line: str) -> None:
    """A line on standard output, in the place of the line of progress if that is shown there."""
    write_line(f"{ERASE if sys.stdout.isatty() else ''}{line}", 1)


class Report:
    """What this rank tells of a run: numbers and progress on the first one, image numbers on all if asked."""

    def __init__(self, history: History | None, progress: Progress, indices: IndexLog | None):
        self.history, self.progress, self.indices = history, progress, indices

    def used(self, step: int, shard: int, indices: Tensor) -> None:
        """These images were one shard of a step."""
        if self.indices:
            self.indices.add(step, shard, indices.tolist())

    def progressed(self, steps: int, values: Values) -> None:
        """`steps` steps are done; `values` are of those since the last such report."""
        if self.history:
            self.history.add(steps, values)
            self.progress.show(steps, values)

    def validated(self, steps: int, scores: dict[str, Values]) -> None:
        """`scores` by network: val, val_ema; and `weight_values`."""
        values = {f"{network}/{name}": value for network, score in scores.items() for name, value in score.items()}
        if self.history:
            self.history.add(steps, values)
            self.history.write_epochs(self.progress.steps_per_epoch)

    def flush(self) -> None:
        """What was told is on the disk afterwards."""
        if self.history:
            self.history.flush()


@torch.no_grad()
def weight_values(model: nn.Module) -> dict[str, Values]:
    """The mean, standard deviation and L2 norm of each parameter, for `Report.validated`. Waits for the device once."""
    named = dict(model.named_parameters())
    numbers = torch.stack([_moments(weight.detach().float()) for weight in named.values()]).tolist()
    names = ("mean", "std", "norm")
    return {
        WEIGHTS: {
            f"{weight}/{name}": value
            for weight, row in zip(named, numbers, strict=True)
            for name, value in zip(names, row, strict=True)
        }
    }


def _moments(weight: Tensor) -> Tensor:
    return torch.stack([weight.mean(), weight.std(correction=0), weight.norm()])
