"""What an unfinished build has written so far, so that the next one can go on, and what is checked before it does.

`journal.bin` has a row for each image of the source, in order, `skipped.txt` a line for each that was left out. Both
are on the disk before the records that they tell of are committed: so of a build that was killed the journal says at
least what data.mdb holds, and what it says beyond that is cut off.
"""

import os
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data import datum
from data.lmdb_format import CONTENT, DATA, key
from data.lmdb_pages import places, read_head
from data.origins.origin import Origin
from utils.errors import DataError

JOURNAL, SKIPPED = "journal.bin", "skipped.txt"

# Of each image of the source: the row that index.npy has, without the place; its size there; whether it was written.
ROW = np.dtype([*CONTENT, ("source_bytes", "<u8"), ("kept", "<u4")])


def read_journal(folder: Path) -> NDArray[np.void]:
    """The rows of a journal, mapped into memory: (images of the source done,)."""
    path = folder / JOURNAL
    count = path.stat().st_size // ROW.itemsize if path.exists() else 0
    return np.memmap(path, dtype=ROW, mode="r", shape=(count,)) if count else np.zeros(0, dtype=ROW)


def append(folder: Path, rows: NDArray[np.void], skipped: list[str]) -> None:
    """Add rows and lines, and see them on the disk."""
    if skipped:
        _append(folder / SKIPPED, "".join(f"{line}\n" for line in skipped).encode(errors="surrogateescape"))
    _append(folder / JOURNAL, rows.tobytes())


def written(folder: Path, origin: Origin) -> int:
    """How many images of `origin` are done, by a journal that is cut to that.

    Every record is read and compared with the journal, and the journal with the sizes that the images have now.
    DataError if anything does not agree.
    """
    records = read_head(folder / DATA).records
    rows = read_journal(folder)
    kept = np.flatnonzero(rows["kept"])
    if len(kept) < records:
        raise DataError(f"{folder / JOURNAL} tells of {len(kept)} records, {DATA} holds {records}")
    done = int(kept[records - 1]) + 1 if records else 0
    _check_source(folder, rows[:done], origin)
    _check_records(folder / DATA, rows[kept[:records]])
    return _cut(folder, done, done - records)


def _check_source(folder: Path, rows: NDArray[np.void], origin: Origin) -> None:
    done = len(rows)
    same = done <= len(origin) and np.array_equal(rows["label"], origin.labels[:done])
    if not same or not np.array_equal(rows["source_bytes"], origin.sizes()[:done]):
        raise DataError(f"{folder}: images that were written have changed in the source")


def _check_records(path: Path, rows: NDArray[np.void]) -> None:
    number = -1
    with open(path, "rb", buffering=0) as file:
        for number, (row, place) in enumerate(zip(rows, places(path), strict=False)):
            before = datum.prefix(int(row["height"]), int(row["width"]), int(row["bytes"]))
            encoded = os.pread(file.fileno(), int(row["bytes"]), place.offset + before)
            if place.key != key(number) or zlib.crc32(encoded) != row["crc32"]:
                raise DataError(f"record {number} of {path} is not what the journal says")
    if number + 1 != len(rows):
        raise DataError(f"{path} holds {number + 1} records, its head says {len(rows)}")


def _cut(folder: Path, done: int, skipped: int) -> int:
    """Shorten the journal to `done` rows and skipped.txt to `skipped` lines."""
    os.truncate(folder / JOURNAL, done * ROW.itemsize)
    if (folder / SKIPPED).exists():
        with open(folder / SKIPPED, "rb") as file:
            length = sum(len(file.readline()) for _ in range(skipped))
        os.truncate(folder / SKIPPED, length)
    return done


def _append(path: Path, content: bytes) -> None:
    with open(path, "ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
