"""Names for classes that a data set only numbers: those in a file, or the numbers themselves."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.errors import DataError, UsageError


def read_class_names(path: Path) -> tuple[str, ...]:
    """The names in a file, class 0 first, one a line. UsageError if it cannot be read or names one class twice."""
    try:
        names = tuple(path.read_text().split("\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--class-names {path} cannot be read: {error}") from error
    names = names[:-1] if names[-1] == "" else names
    before: set[str] = set()
    for line, name in enumerate(names, 1):
        if not name.strip() or "/" in name or name in before:
            raise UsageError(f"--class-names {path}, line {line}: {name!r} is empty, has a / or was there before")
        before.add(name)
    return names


def check_count(names: tuple[str, ...], count: int, path: Path) -> tuple[str, ...]:
    """`names` themselves. UsageError if there are fewer than the `count` classes of the images."""
    if len(names) < count:
        raise UsageError(f"--class-names {path} names {len(names)} classes; the images have labels up to {count - 1}")
    return names


def count_classes(splits: Iterable[NDArray[np.int32]]) -> int:
    """One more than the greatest label of all splits. DataError if there is no image."""
    greatest = [int(labels.max()) for labels in splits if len(labels)]
    if not greatest:
        raise DataError("there is no image in any split")
    return max(greatest) + 1


def number_classes(count: int) -> tuple[str, ...]:
    """The numbers as names: "0", "1", ..."""
    return tuple(str(number) for number in range(count))
