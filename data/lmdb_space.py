"""How much room an LMDB of images takes on the disk, known before it is built."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.lmdb_format import RECORD
from data.lmdb_journal import ROW
from data.origins.origin import Origin
from data.treatment import Treatment, treat
from utils.errors import DataError

DATUM = 30  # bytes that a Datum adds to an image's own, at most
NODE, PAGE_HEAD, KEY = 10, 16, 8  # of LMDB 0.9: a node's head with its place in the page; see data.lmdb_pages
SPARE_PAGES = 64  # copied on write and not used again
SAMPLE = 32  # images treated to estimate what all become
BRANCHES = 200  # leaf pages that one branch page leads to, about


def data_bytes(sizes: NDArray[np.int64]) -> int:
    """The size of the data.mdb that holds images of these sizes (n,)."""
    page = os.sysconf("SC_PAGE_SIZE")
    records = sizes + DATUM
    inline = NODE + KEY + records <= (page - PAGE_HEAD) // 2
    own = -(-(records[~inline] + PAGE_HEAD) // page)  # pages of a record that does not share one
    shared = NODE + KEY + 1 + np.where(inline, records, 8)  # bytes in a leaf page, even
    fill = 1 - shared.mean() / (page - PAGE_HEAD) / 2 if len(shared) else 1  # a record that does not fit begins a page
    leaves = shared.sum() / fill / (page - PAGE_HEAD)
    return int(own.sum() + leaves * (1 + 1 / BRANCHES) + SPARE_PAGES) * page


def check_space(output_dir: Path, origins: dict[str, Origin], treatment: Treatment) -> str:
    """A line that says what the LMDB needs and what is free. DataError in one line if that is less.

    Files that an unfinished build left in `output_dir` count as written.
    """
    sizes = {split: _sizes_after(origin, treatment) for split, origin in origins.items()}
    rows = sum(len(origin) for origin in origins.values())
    needed = sum(data_bytes(after) for after in sizes.values()) + rows * (RECORD.itemsize + ROW.itemsize)
    there = sum(_allocated(output_dir / split) for split in origins)
    disk = os.statvfs(output_dir)
    free = disk.f_bavail * disk.f_frsize
    estimated = ", estimated from a few images" if treatment.encodes else ""
    line = f"{output_dir} needs {_mib(needed)} MiB on the disk{estimated}; {there >> 20} are written, {free >> 20} free"
    if needed - there > free:
        raise DataError(f"{line}: make room or choose another --output-dir")
    return line


def _sizes_after(origin: Origin, treatment: Treatment) -> NDArray[np.int64]:
    """The sizes of an origin's images once they are treated, or what these will be by those of a few."""
    sizes = origin.sizes()
    if not treatment.encodes:
        return sizes
    numbers = np.unique(np.linspace(0, len(origin) - 1, min(SAMPLE, len(origin))).astype(np.int64))
    before, after = np.array(list(_treat_some(origin, numbers.tolist(), treatment))).reshape(-1, 2).sum(axis=0)
    return (sizes * (after / before if before else 1)).astype(np.int64)


def _treat_some(origin: Origin, numbers: list[int], treatment: Treatment) -> Iterable[tuple[int, int]]:
    """Length before and after of those images that are good."""
    for number in numbers:
        try:
            encoded = origin.read(number)
            yield len(encoded), len(treat(encoded, origin.name(number), treatment).encoded)
        except DataError:
            continue  # the build will meet it


def _allocated(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir()) if folder.exists() else 0


def _mib(count: int) -> int:
    """Mebibytes, rounded up."""
    return -(-count // (1 << 20))
