"""The bar chart of the benchmark."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from scripts.drawing import COLOURS, INK, dress_bars, empty_figure
from scripts.loader_benchmark.contenders import LIMITS, NOTHING, PEERS
from scripts.loader_benchmark.report import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS, OTHERS, LIMIT = COLOURS[0], "#B9BEC4", "#8A8F95"  # blue, and greys
PALE = "#777777"
BAR, INCH_PER_BAR = 0.72, 0.31
KINDS = ((OURS, "", "train_dist"), (OTHERS, "", "others, as their users run them"))
LIMIT_KIND = ("white", "////", "libjpeg-turbo alone, decoding crops or whole images")


def draw(scores: Sequence[Score], title: str, below: str) -> "Figure":
    """Speed by contender, the fastest on top, with its range; `below` in small letters. Needs no screen."""
    shown = sorted(scores, key=lambda one: one.img_per_s)
    figure = empty_figure((9.5, 1.9 + INCH_PER_BAR * len(shown)), "the chart")
    axes = figure.subplots()
    for place, one in enumerate(shown):
        _bar(axes, place, one)
    axes.set_yticks(range(len(shown)), [one.name for one in shown])
    for label, one in zip(axes.get_yticklabels(), shown, strict=True):
        if _is_ours(one):
            label.set(color=OURS, fontweight="bold")
    dress_bars(axes, title, max(one.fastest for one in shown))
    _tell_kinds(axes, any(one.name in LIMITS for one in shown))
    figure.supxlabel(below, x=0.01, ha="left", fontsize=7.5, color=PALE, wrap=True)
    return figure


def _is_ours(one: Score) -> bool:
    return one.name not in LIMITS and one.name not in PEERS


def _bar(axes: "Axes", place: int, one: Score) -> None:
    """The bar of one contender, a thin line for its range, and its speed in figures."""
    if one.name in LIMITS:
        axes.barh(place, one.img_per_s, BAR, color="white", edgecolor=LIMIT, hatch="////", linewidth=0.8)
    else:
        axes.barh(place, one.img_per_s, BAR, color=OURS if _is_ours(one) else OTHERS)
    axes.plot((one.slowest, one.fastest), (place, place), color=INK, linewidth=1, solid_capstyle="butt")
    words = f"{one.img_per_s:,.0f}"
    weight = "bold" if _is_ours(one) else "normal"
    end = (max(one.fastest, one.img_per_s), place)
    shift = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
    number = axes.annotate(words, end, color=INK, fontweight=weight, fontsize=9.5, **shift)
    if one.contender.makes != NOTHING:
        beside = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(one.contender.makes, (1, 0.5), xycoords=number, color=PALE, fontsize=8, **beside)


def _tell_kinds(axes: "Axes", with_limits: bool) -> None:
    """What the colours mean, in the lower right corner, which the slow ones leave free."""
    from matplotlib.patches import Patch

    kinds = [*KINDS, LIMIT_KIND] if with_limits else KINDS
    edges = {"white": LIMIT}
    handles = [Patch(facecolor=c, hatch=h, edgecolor=edges.get(c, c), label=label) for c, h, label in kinds]
    axes.legend(handles=handles, loc="lower right", frameon=False, fontsize=9.5, labelcolor=INK, borderaxespad=0.2)
