"""A picture of rows: each trick's difference to the baseline with its interval, and what it costs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from scripts.comparison.paired import SHARE
from scripts.comparison.tables import Row, told
from scripts.drawing import COLOURS, INK, dress, empty_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN = COLOURS[:3]
ROW_INCHES, FRAME_INCHES = 0.42, 1.9


def draw(rows: Sequence[Row], title: str) -> "Figure":
    """Three panels side by side under one list of names: difference, time and memory of a step."""
    tricks = [row for row in rows if row.difference]
    figure = empty_figure((13.5, FRAME_INCHES + ROW_INCHES * max(len(tricks), 2)), "the picture of an ablation")
    gaps, time, memory = figure.subplots(1, 3, sharey=True, width_ratios=(2, 1, 1))
    for place, row in enumerate(tricks):
        _difference(gaps, place, row)
    _bars(time, [row.time_ratio for row in tricks], ORANGE)
    _bars(memory, [row.memory_ratio for row in tricks], GREEN)
    gaps.axvline(0, color=INK, linewidth=1.2)
    gaps.set_yticks(range(len(tricks)), [row.group.name for row in tricks])
    gaps.set_ylim(len(tricks) - 0.4, -0.6)
    dress(gaps, title, f"top-1 against {rows[0].group.name}, points: mean, {SHARE:.0%} interval; circles: each seed")
    dress(time, "Time of a step", "times the baseline's")
    dress(memory, "Memory", "times the baseline's")
    return figure


def _difference(axes: "Axes", place: int, row: Row) -> None:
    gap = row.difference
    axes.plot(row.differences, [place] * len(row.differences), "o", markerfacecolor="none", color=BLUE, alpha=0.5)
    axes.errorbar(gap.mean, place, xerr=gap.half, fmt="D", markersize=7, capsize=5, linewidth=2, color=BLUE)
    axes.annotate(told(gap), (gap.mean, place), (0, 8), textcoords="offset points", ha="center", fontsize=8.5)


def _bars(axes: "Axes", ratios: Sequence[float | None], colour: str) -> None:
    for place, ratio in enumerate(ratios):
        if ratio is not None:
            axes.barh(place, ratio, height=0.5, color=colour, alpha=0.75)
            axes.annotate(f"{ratio:.2f}", (ratio, place), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.axvline(1, color=INK, linewidth=1.2)
    axes.set_xlim(0, 1.15 * max([1.0, *(ratio for ratio in ratios if ratio)]))
