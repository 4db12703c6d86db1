"""How pictures of curves look: colours, letters, grid. matplotlib is only needed once one is drawn."""

from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import EnvironmentFault, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Wong, Nature Methods 8, 441 (2011), told apart by colour-blind eyes too, and printed in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C00")
INK, GRID = "#333333", "#E4E4E4"
LEGEND = {"frameon": False, "fontsize": 10.5, "labelcolor": INK, "handlelength": 2.6, "columnspacing": 2.0}


def empty_figure(size: tuple[float, float], who: str) -> "Figure":
    """An empty picture of `size` inches that needs no screen. EnvironmentFault, which says `who` needs it, without
    matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EnvironmentFault(f"{who} needs matplotlib, which is missing; pip install matplotlib") from error
    return Figure(figsize=size, dpi=150, facecolor="white", layout="constrained")


def colour(order: int, count: int) -> "tuple[float, ...] | str":
    """The colour of curve `order` of `count`: from the list, or from a rainbow where the list is too short."""
    if count <= len(COLOURS):
        return COLOURS[order]
    from matplotlib import colormaps

    return colormaps["turbo"](0.05 + 0.9 * order / (count - 1))


def dress(axes: "Axes", title: str, unit: str) -> None:
    """A title, what x counts, a pale grid, and no more frame than the two axes."""
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=10)
    axes.set_xlabel(unit, color=INK)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#AAAAAA")


def dress_bars(axes: "Axes", title: str, fastest: float) -> None:
    """Of bars across, the longest `fastest`: a title, a pale grid, and no frame."""
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=10)
    axes.set_xlim(0, 1.16 * fastest)
    axes.margins(y=0.01)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0)
    axes.spines[:].set_visible(False)


def save_png(figure: "Figure", path: Path) -> None:
    """Write a picture. UsageError if its path cannot be written."""
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise UsageError(f"--output {path} cannot be written: {error.strerror}; choose another one") from error
