"""Groups of runs held against the first group, as rows for a CSV file, a Markdown table and a picture."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from scripts.comparison.paired import SHARE, Difference, paired
from scripts.comparison.runs import RunRecord
from utils.files import write_atomically

COLUMNS = ("trick", "runs", "top1", "top5", "difference", "low", "high", "pairs", "ms_per_step", "time_ratio")
COLUMNS += ("peak_gib", "memory_ratio", "note")
RUN_COLUMNS = ("trick", "seed", "top1", "top5", "best_top1", "measured", "ms_per_step", "peak_gib", "seconds", "folder")
HEADS = ("trick", "top-1, %", "top-5, %", "difference of top-1", "n", "ms per step", "time", "GiB", "memory", "")


@dataclass(frozen=True)
class Group:
    """Finished runs that differ in nothing but the seed; `note` says what there is to say of those that are not."""

    name: str
    runs: Sequence[RunRecord]
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One group in numbers: means over its runs, and its difference to the first group over the seeds both have."""

    group: Group
    top1: float | None
    top5: float | None
    differences: tuple[float, ...]
    difference: Difference | None
    milliseconds: float | None
    gib: float | None
    time_ratio: float | None = None
    memory_ratio: float | None = None


def rows_of(groups: Sequence[Group]) -> list[Row]:
    """A row for each group; the first one is what the others are held against."""
    baseline = {run.seed: run for run in groups[0].runs}
    rows: list[Row] = []
    for group in groups:
        pairs = [] if group is groups[0] else [(run, baseline[run.seed]) for run in group.runs if run.seed in baseline]
        differences = tuple(run.last("top1") - other.last("top1") for run, other in pairs)
        milliseconds = _known([run.milliseconds for run in group.runs], median)
        gib = _known([run.peak_gib for run in group.runs], max)
        first = rows[0] if rows else None
        rows.append(
            Row(
                group,
                _known([run.last("top1") for run in group.runs], fmean),
                _known([run.last("top5") for run in group.runs], fmean),
                differences,
                paired(differences) if differences else None,
                milliseconds,
                gib,
                _ratio(milliseconds, first.milliseconds) if first else None,
                _ratio(gib, first.gib) if first else None,
            )
        )
    return rows


def _known(values: Sequence[float | None], summary: object) -> float | None:
    """`summary` of the values that there are."""
    found = [value for value in values if value is not None]
    return summary(found) if found else None


def _ratio(value: float | None, baseline: float | None) -> float | None:
    return value / baseline if value and baseline else None


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """One line a trick, with all digits; what is not known is left empty."""
    lines = []
    for row in rows:
        gap = row.difference
        spread = (gap.mean, gap.low, gap.high, gap.pairs) if gap else (None, None, None, None)
        cost = (row.milliseconds, row.time_ratio, row.gib, row.memory_ratio)
        lines.append((row.group.name, len(row.group.runs), row.top1, row.top5, *spread, *cost, row.group.note))
    _write(path, COLUMNS, lines)


def write_run_csv(path: Path, groups: Sequence[Group]) -> None:
    """One line a run, with all digits."""
    lines = []
    for group in groups:
        for run in group.runs:
            reached = (run.last("top1"), run.last("top5"), run.best()[0], run.judged)
            cost = (run.milliseconds, run.peak_gib, run.training_seconds)
            lines.append((group.name, run.seed, *reached, *cost, run.folder))
    _write(path, RUN_COLUMNS, lines)


def _write(path: Path, heads: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    temporary = path.with_name(f"{path.name}.part")
    with temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(heads)
        writer.writerows(lines)
    temporary.replace(path)


def markdown(rows: Sequence[Row]) -> str:
    """The table for people, with what its numbers mean beneath."""
    lines = [HEADS, tuple("---" for _ in HEADS), *(_cells(row) for row in rows)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{table}\n\n{_legend(rows)}\n"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.group.name,
        _number(row.top1, ".2f"),
        _number(row.top5, ".2f"),
        told(row.difference),
        str(row.difference.pairs if row.difference else len(row.group.runs)),
        _number(row.milliseconds, ".1f"),
        _number(row.time_ratio, ".2f", "x"),
        _number(row.gib, ".2f"),
        _number(row.memory_ratio, ".2f", "x"),
        row.group.note,
    )


def told(gap: Difference | None) -> str:
    """+0.31 ± 0.22, or +0.31 alone where one pair tells of no spread."""
    if gap is None:
        return ""
    return f"{gap.mean:+.2f}" if gap.half is None else f"{gap.mean:+.2f} ± {gap.half:.2f}"


def _number(value: float | None, form: str, after: str = "") -> str:
    return "" if value is None else f"{value:{form}}{after}"


def _legend(rows: Sequence[Row]) -> str:
    averaged = sorted({run.judged for row in rows for run in row.group.runs} - {"val"})
    lines = [
        f"top-1 and top-5 are of the last epoch, means over seeds. The difference is to {rows[0].group.name}, between "
        f"runs of the same seed, whose order of images is the same unless a trick is about it; after ± half of its "
        f"{SHARE:.0%} interval "
        "by Student's t over n pairs.",
        "A step's time is the median without validations; memory is the most that the first process held.",
    ]
    if averaged:
        lines.append("Runs that keep an average of their weights are judged by it.")
    if any(row.difference and row.difference.half is None for row in rows):
        lines.append("One pair tells of no spread: no interval.")
    return "\n".join(lines)


def write_markdown(path: Path, title: str, rows: Sequence[Row]) -> None:
    text = f"# {title}\n\n{markdown(rows)}"
    write_atomically(path, lambda file: file.write(text.encode()))
