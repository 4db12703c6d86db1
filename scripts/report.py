"""One run on one page, or several held against the first, from the folders that training wrote.

    python -m scripts.report RUN                      # RUN/card.md and RUN/card.png
    python -m scripts.report RUN... --output-dir OUT  # OUT/ablation.md, ablation.csv, runs.csv and ablation.png

Several runs are grouped by their settings: those that differ in the seed alone are one group, named by what it has
other than the first run's. Differences are between runs of the same seed, as scripts.ablate has them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from scripts.comparison.card import card, settings_as_config
from scripts.comparison.chart import draw
from scripts.comparison.runs import RunRecord, read_run
from scripts.comparison.tables import Group, markdown, rows_of, write_csv, write_markdown, write_run_csv
from scripts.comparison.tricks import BASELINE
from scripts.drawing import save_png
from scripts.plot_curves import draw as draw_curves
from scripts.plot_curves import read_curves
from utils.config.comparing import changed_settings
from utils.errors import UsageError
from utils.files import write_atomically
from utils.script import script


@dataclass(frozen=True)
class ReportConfig:
    """Put one run on one page, or hold several against the first."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN...", help_behavior_hint="")]
    """folders that training wrote"""
    output_dir: Path | None = None
    """folder to write to; the run's own if not given, which several runs do not have"""


def report(config: ReportConfig) -> None:
    """Write what `config` asks for, and print where it is."""
    if not config.runs:
        raise UsageError("no run given; name one or several folders that training wrote")
    if len(set(config.runs)) < len(config.runs):
        raise UsageError("a run is named twice; once is enough")
    runs = [read_run(folder) for folder in config.runs]
    if len(runs) == 1:
        print(write_card(runs[0], config.output_dir or runs[0].folder))
        return
    if config.output_dir is None:
        raise UsageError("several runs have no folder in common; say where to write with --output-dir")
    print(compare(runs, config.output_dir))


def write_card(run: RunRecord, folder: Path) -> Path:
    """card.md and the picture it shows; the path of the page comes back."""
    folder.mkdir(parents=True, exist_ok=True)
    save_png(draw_curves(read_curves([run.folder])), folder / "card.png")
    page = folder / "card.md"
    write_atomically(page, lambda file: file.write(card(run, "card.png").encode()))
    return page


def compare(runs: Sequence[RunRecord], folder: Path) -> str:
    """Tables and a picture of several runs; the Markdown table comes back."""
    folder.mkdir(parents=True, exist_ok=True)
    groups = grouped(runs)
    rows, title = rows_of(groups), f"{len(runs)} runs"
    write_csv(folder / "ablation.csv", rows)
    write_run_csv(folder / "runs.csv", groups)
    write_markdown(folder / "ablation.md", title, rows)
    if len(rows) > 1:
        save_png(draw(rows, title), folder / "ablation.png")
    return markdown(rows)


def grouped(runs: Sequence[RunRecord]) -> list[Group]:
    """Groups of the same settings, the first run's first. UsageError for one that is not finished, or there twice."""
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        if not run.is_finished:
            raise UsageError(f"{run.folder} is not finished; go on with it by --resume auto, or leave it out")
        members = groups.setdefault(_name(runs[0], run), [])
        if any(run.seed == member.seed for member in members):
            raise UsageError(f"{run.folder} has settings and seed of {members[0].folder}; leave one of them out")
        members.append(run)
    return [Group(name, members) for name, members in groups.items()]


def _name(first: RunRecord, run: RunRecord) -> str:
    """What a run has other than the first, as flags."""
    changes = changed_settings(first.config, settings_as_config(run.config))
    changes.pop("seed", None)
    return " ".join(f"{name.replace('_', '-')} {now}" for name, (_, now) in changes.items()) or BASELINE


if __name__ == "__main__":
    script(ReportConfig, report)
