"""Draws loss, accuracy and learning rate of one or several runs to a PNG.

    python -m scripts.plot_curves RUN...                    # writes curves.png into the first run's folder
    python -m scripts.plot_curves RUN... --output FILE.png

A run is the folder that training wrote. Its colour is its own; what was measured on training images is dashed and pale,
on validation images solid, by an average of the weights dotted. x counts epochs, so that runs of different batch sizes
can be compared; two runs that did the same lie on each other, so later ones are drawn thinner.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from scripts.drawing import INK, LEGEND, colour, dress, empty_figure, save_png
from utils.errors import UsageError
from utils.log import Values, read_history
from utils.script import script

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_POINTS = 240  # of a training curve: more are averaged, so that dashes stay dashes
FEW_POINTS = 30  # of a validation curve, up to which they get dots
LEGEND_LETTERS = 150  # in a line above the panels


@dataclass(frozen=True)
class PlotConfig:
    """Draw loss, accuracy and learning rate of one or several runs to a PNG."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN...", help_behavior_hint="")]
    """folders that training wrote"""
    output: Annotated[Path | None, arg(metavar="FILE.png", help_behavior_hint="")] = None
    """picture to write; curves.png in the first run's folder if not given"""


@dataclass(frozen=True)
class Curves:
    """The history of one run, by epochs."""

    name: str
    steps_per_epoch: float
    history: list[Values]

    def of(self, value: str) -> tuple[list[float], list[float]]:
        """Epochs, with fractions, and what was measured there; both empty if it never was."""
        lines = [line for line in self.history if value in line]
        return [line["step"] / self.steps_per_epoch for line in lines], [line[value] for line in lines]


@dataclass(frozen=True)
class Style:
    """How one kind of measurement is drawn, beside its run's colour."""

    value: str
    label: str
    line: "str | tuple[int, tuple[float, ...]]"  # matplotlib's
    width: float
    opacity: float
    averaged: bool = False  # over neighbours, where there are many
    dotted: bool = False  # a dot where it was measured, where that was seldom


STYLES = (
    Style("train", "training", (0, (4, 2)), 1.1, 0.55, averaged=True),
    Style("val", "validation", "-", 2.0, 1.0, dotted=True),
    Style("val_ema", "validation, averaged weights", (0, (1, 1.2)), 1.8, 1.0, dotted=True),
    Style("val_swa", "validation, equal average", (0, (4, 1, 1, 1)), 1.8, 1.0, dotted=True),
)
VALIDATED = ("val/top1", "val_ema/top1", "val_swa/top1")
RATE = Style("optim", "learning rate", "-", 1.8, 1.0)


def read_curves(folders: Sequence[Path]) -> list[Curves]:
    """The histories of runs, each named by what tells its folder from the others. UsageError if one has none."""
    names = _names([folder.resolve() for folder in folders])
    return [_read(folder, name) for folder, name in zip(folders, names, strict=True)]


def _read(folder: Path, name: str) -> Curves:
    if not folder.is_dir():
        raise UsageError(f"no run at {folder}; give the --output-dir of a training")
    history = read_history(folder)
    if not history:
        raise UsageError(f"{folder}/metrics.jsonl is missing or empty; a run writes it after --log-interval steps")
    try:
        config = json.loads((folder / "config.json").read_text())
        return Curves(name, config["steps"] / config["schedule"]["epochs"], history)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder}/config.json is not the one that a run writes ({type(error).__name__})") from error


def _names(folders: list[Path]) -> list[str]:
    """The last part of each path, or, where two would have the same name, all from where the paths part."""
    short = [folder.name for folder in folders]
    if len(set(short)) == len(set(folders)):
        return short
    shared = commonpath(folders)
    return [str(folder.relative_to(shared)) for folder in folders]


def draw(runs: Sequence[Curves]) -> "Figure":
    """Three panels beside each other, loss, accuracy, learning rate, under one legend."""
    figure = empty_figure((13.5, 4.9), "plot_curves")
    loss, accuracy, rate = figure.subplots(1, 3, width_ratios=(1, 1, 0.72))
    for order, run in enumerate(runs):
        place = order, len(runs)
        for style in STYLES:
            _line(loss, run, f"{style.value}/loss", style, place)
            _line(accuracy, run, f"{style.value}/top1", style, place)
        _line(rate, run, "optim/lr", RATE, place)
    loss.set_yscale("log")
    for axes, title in ((loss, "Loss"), (accuracy, "Top-1 accuracy, %"), (rate, "Learning rate")):
        dress(axes, title, "epoch")
        axes.set_xlim(left=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
    _plain_numbers(loss)
    _tell_runs(figure, runs)
    _tell_lines(loss, runs)
    return figure


def _line(axes: "Axes", run: Curves, value: str, style: Style, place: tuple[int, int]) -> None:
    """One measurement of run `place[0]` of `place[1]`; where it is only at few epochs, each has its dot."""
    order, count = place
    epochs, values = run.of(value)
    if style.averaged:
        epochs, values = averaged(epochs), averaged(values)
    axes.plot(
        epochs,
        values,
        color=colour(order, count),
        linestyle=style.line,
        linewidth=style.width * _width(order, count),
        alpha=style.opacity,
        marker="o" if style.dotted and len(epochs) <= FEW_POINTS else "",
        markersize=4 + style.width * _width(order, count),
        zorder=2 if style.averaged else 3,
    )


def _width(order: int, count: int) -> float:
    """Runs drawn later lie on top: thinner, so that equal ones beneath still show."""
    return 1.7 - 1.1 * order / (count - 1) if count > 1 else 1.0


def averaged(values: list[float]) -> list[float]:
    """Means over equally many neighbours, such that at most MOST_POINTS are left."""
    size = -(-len(values) // MOST_POINTS) or 1
    groups = [values[start : start + size] for start in range(0, len(values), size)]
    return [sum(group) / len(group) for group in groups]


def _plain_numbers(axes: "Axes") -> None:
    """Losses on a logarithmic axis as 0.2, 0.5, 1, not as powers of ten; more of them where it is short."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    lowest, highest = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if highest > 20 * lowest else (1, 1.5, 2, 3, 4, 5, 7)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _tell_runs(figure: "Figure", runs: Sequence[Curves]) -> None:
    """Above the panels, the runs by colour, with their best validation."""
    from matplotlib.lines import Line2D

    labels = [f"{run.name}{_best(run)}" for run in runs]
    handles = [
        Line2D([], [], color=colour(order, len(runs)), linewidth=4, label=label) for order, label in enumerate(labels)
    ]
    columns = LEGEND_LETTERS // (max(map(len, labels)) + 8)
    figure.legend(handles=handles, loc="outside upper left", ncols=min(max(columns, 1), len(runs)), **LEGEND)


def _tell_lines(axes: "Axes", runs: Sequence[Curves]) -> None:
    """In the upper right corner, which losses leave free, the kinds of line."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=INK, linestyle=style.line, linewidth=style.width, alpha=style.opacity, label=style.label)
        for style in STYLES
        if any(run.of(f"{style.value}/loss")[0] for run in runs)
    ]
    axes.legend(handles=handles, loc="upper right", **LEGEND)


def _best(run: Curves) -> str:
    best = [max(values) for _, values in map(run.of, VALIDATED) if values]
    return f"  (best top-1 {max(best):.2f} %)" if best else ""


def plot(config: PlotConfig) -> None:
    """Write the picture that `config` asks for, and print its path."""
    if not config.runs:
        raise UsageError("no run given; name one or several folders that training wrote")
    figure = draw(read_curves(config.runs))
    output = config.output or config.runs[0] / "curves.png"
    save_png(figure, output)
    print(output)


if __name__ == "__main__":
    script(PlotConfig, plot)
