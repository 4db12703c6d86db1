"""Parameters and FLOPs of the ancestors' README tables beside ours, each counted by its ancestor's own rule.

    python -m scripts.ancestor_sizes
    python -m scripts.ancestor_sizes --markdown

Ours are printed with as many digits as theirs. The exit code is 1 if a number differs that is not known to: where a
README and its ancestor's code differ both are shown, and ours is to be the code's.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from models import build_model, model_names
from scripts.ancestors.counting import count
from scripts.ancestors.published import TABLES, Row, Table
from utils.complexity import aligned
from utils.script import script

HEADS = ("ancestor", "network", "parameters", "ours", "FLOPs", "ours", "exactly", "")
UNITS = {"M": 1e6, "G": 1e9}
MISSING = "not ours yet"


@dataclass(frozen=True)
class SizesConfig:
    """Hold the sizes of our networks against those in the ancestors' README tables."""

    markdown: bool = False
    """print a table for a README"""


@dataclass(frozen=True)
class Comparison:
    """One row of a README with our numbers; `right` if ours are as expected."""

    cells: tuple[str, ...]
    right: bool
    present: bool = True


def like(number: float, printed: str) -> str:
    """`number` with the unit and the decimals of `printed`, such as "4.122 G"; "" where nothing is."""
    if not printed:
        return ""
    digits, unit = printed.split()
    return f"{number / UNITS[unit]:.{len(digits.partition('.')[2])}f} {unit}"


def compare(table: Table, row: Row) -> Comparison:
    """Our network held against a row."""
    theirs = (_both(row.parameters, row.code_parameters), _both(row.flops, row.code_flops))
    if row.config.model not in model_names():
        cells = (table.ancestor, row.name, theirs[0], MISSING, theirs[1], MISSING if row.flops else "", "", row.note)
        return Comparison(cells, right=True, present=False)
    with torch.device("meta"):
        model = build_model(row.config, table.classes)
    parameters, flops = count(model, table.size, table.rule)
    _, printed_flops = count(model, table.size, row.rule) if row.rule else (0, flops)
    ours = [like(parameters, row.parameters), like(printed_flops, row.flops)]
    right = ours == [row.code_parameters or row.parameters, row.flops]
    if row.rule:
        right = right and like(flops, row.code_flops) == row.code_flops
        ours[1] = _both(ours[1], like(flops, row.code_flops))
    cells = (table.ancestor, row.name, theirs[0], ours[0], theirs[1], ours[1], f"{parameters:,}", row.note)
    return Comparison(cells, right)


def _both(printed: str, code: str) -> str:
    return f"{printed} (code {code})" if code else printed


def comparisons() -> Iterator[Comparison]:
    """Every row of every README."""
    for table, rows in TABLES:
        for row in rows:
            yield compare(table, row)


def markdown(found: list[Comparison]) -> str:
    """A table for a README."""
    lines = [HEADS, tuple("---" for _ in HEADS), *(it.cells for it in found)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def sizes(config: SizesConfig) -> int:
    """Print, and come back with the exit code."""
    found = list(comparisons())
    print(markdown(found) if config.markdown else aligned([HEADS, *(it.cells for it in found)], "<<>>>>><"))
    wrong, absent = [it for it in found if not it.right], [it for it in found if not it.present]
    for it in wrong:
        print(f"different: {it.cells[0]}, {it.cells[1]}")
    if absent:
        print(f"{MISSING}: {', '.join(it.cells[1] for it in absent)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    script(SizesConfig, sizes)
