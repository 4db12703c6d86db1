"""The bar chart of the benchmark: a panel for each network, precision and phase."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from scripts.drawing import COLOURS, INK, dress_bars, empty_figure
from scripts.step_benchmark.report import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS, OTHERS, PALE = COLOURS[0], "#B9BEC4", "#777777"
BAR, INCH_PER_BAR, INCH_PER_PANEL = 0.72, 0.31, 0.75


def draw(panels: Mapping[str, Sequence[Score]], below: str) -> "Figure":
    """Speed by contender under each panel's title, the fastest on top, with its range. Needs no screen."""
    bars = [len(scores) for scores in panels.values()]
    size = (9.5, 0.9 + sum(INCH_PER_PANEL + INCH_PER_BAR * count for count in bars))
    figure = empty_figure(size, "the chart")
    heights = [INCH_PER_PANEL + INCH_PER_BAR * count for count in bars]
    column = figure.subplots(len(bars), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, scores) in zip(column, panels.items(), strict=True):
        _panel(axes, title, sorted(scores, key=lambda one: one.img_per_s))
    figure.supxlabel(below, x=0.01, ha="left", fontsize=7.5, color=PALE, wrap=True)
    return figure


def _panel(axes: "Axes", title: str, scores: Sequence[Score]) -> None:
    for place, one in enumerate(scores):
        _bar(axes, place, one)
    axes.set_yticks(range(len(scores)), [one.name for one in scores])
    for label, one in zip(axes.get_yticklabels(), scores, strict=True):
        if one.contender.is_ours:
            label.set(color=OURS, fontweight="bold")
    dress_bars(axes, title, max(_range(one)[1] for one in scores))


def _bar(axes: "Axes", place: int, one: Score) -> None:
    """The bar of one contender, a thin line for its range, and its speed in figures."""
    slowest, fastest = _range(one)
    axes.barh(place, one.img_per_s, BAR, color=OURS if one.contender.is_ours else OTHERS)
    axes.plot((slowest, fastest), (place, place), color=INK, linewidth=1, solid_capstyle="butt")
    shift = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
    words = f"{one.img_per_s:,.1f}" if one.img_per_s < 1000 else f"{one.img_per_s:,.0f}"
    axes.annotate(words, (fastest, place), color=INK, fontsize=9.5, **shift)


def _range(one: Score) -> tuple[float, float]:
    return one.setup.batch_size / max(one.seconds), one.setup.batch_size / min(one.seconds)
