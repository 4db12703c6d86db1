"""Tables of named choices, and the error that a name outside a table deserves."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from utils.errors import UsageError

Row = TypeVar("Row")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like `name`, or None if none does."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def choose(table: Mapping[str, Row], name: str, what: str) -> Row:
    """The row of `table` called `name`; UsageError with the nearest name and the choices if there is none.

    `what` is how the user knows the choice, such as "--norm".
    """
    if name in table:
        return table[name]
    guess = nearest(name, table)
    hint = f"did you mean {guess}? " if guess else ""
    raise UsageError(f"{what} {name} is not known; {hint}choose from {', '.join(sorted(table))}")
