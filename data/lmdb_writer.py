"""Builds an LMDB data set from any store: processes read and check the images, this one writes them in order.

A build is finished when both splits have their meta.json, which are written last; until then an `unfinished.json` says
whose files these are, so that the next build may replace them.
"""

import fcntl
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import lmdb
import numpy as np
from numpy.typing import NDArray

from data import datum
from data.lmdb_format import (
    DATA,
    INDEX,
    META,
    RECORD,
    UNFINISHED,
    VERSION,
    Meta,
    fingerprint,
    key,
    write_index,
    write_meta,
)
from data.lmdb_pages import places
from data.pixels import decode, probe
from data.stores import Store
from data.workers import in_order
from utils.errors import DataError, UsageError
from utils.files import sync_folder, write_json

CHUNK = 32  # images a worker checks at once and a transaction writes: 4 MB of ImageNet
FIRST_MAP = 1 << 30  # bytes that data.mdb may reach before its map is first doubled; the file is no larger than needed
OURS = {DATA, INDEX, META, UNFINISHED, f"{INDEX}.tmp", f"{META}.tmp", f"{UNFINISHED}.tmp"}


class Chunk(NamedTuple):
    """Consecutive images, read and checked: their rows of index.npy, and their records for data.mdb."""

    first: int
    rows: NDArray[np.void]
    records: list[bytes]


def build(sources: dict[str, Store], output_dir: Path, workers: int, progress: Callable[[str, int], None]) -> None:
    """Write each of `sources` (by split) to a folder of `output_dir`; `progress` is told the split and images done.

    UsageError if `output_dir` holds anything but an unfinished build, DataError at the first bad image or when the disk
    is full.
    """
    with _told(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
        with _sole_builder(output_dir):
            _clear(output_dir, list(sources))
            metas = {}
            for split, store in sources.items():
                folder = output_dir / split
                folder.mkdir(exist_ok=True)
                write_json(folder / UNFINISHED, {"count": len(store)})
                metas[split] = write_split(store, folder, workers, partial(progress, split))
            for split, meta in metas.items():
                write_meta(output_dir / split, meta)
            for split in metas:
                (output_dir / split / UNFINISHED).unlink()
            sync_folder(output_dir)


def write_split(
    store: Store, folder: Path, workers: int, progress: Callable[[int], None], map_size: int = FIRST_MAP
) -> Meta:
    """Write `data.mdb` and `index.npy` to `folder`; comes back with what `meta.json` has to say, once all is done."""
    index = np.zeros(len(store), dtype=RECORD)
    with lmdb.open(str(folder), map_size=map_size, lock=False, sync=False) as environment:
        for chunk in in_order(partial(check, store), range(0, len(store), CHUNK), workers):
            index[chunk.first : chunk.first + len(chunk.rows)] = chunk.rows
            _put(environment, chunk)
            progress(len(chunk.rows))
        environment.sync(True)
    _locate(folder / DATA, index)
    write_index(folder, index)
    listing = store.identity()["listing"]
    size = os.path.getsize(folder / DATA)
    return Meta(VERSION, len(store), size, store.classes, listing, fingerprint(store.classes, index))


def _locate(path: Path, index: NDArray[np.void]) -> None:
    """Note in `index` where in the file at `path` the bytes of each image begin."""
    for row, place in zip(index, places(path), strict=True):
        row["offset"] = place.offset + datum.prefix(int(row["height"]), int(row["width"]), int(row["bytes"]))


def _put(environment: lmdb.Environment, chunk: Chunk) -> None:
    """Write a chunk in one transaction, which is repeated with twice the map as long as the map is full."""
    while True:
        try:
            with environment.begin(write=True) as transaction:
                for number, record in enumerate(chunk.records, chunk.first):
                    transaction.put(key(number), record, append=True)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])


def check(store: Store, first: int) -> Chunk:
    """CHUNK images from `first` on. DataError at the first that cannot be read and decoded to its end."""
    numbers = range(first, min(first + CHUNK, len(store)))
    rows = np.zeros(len(numbers), dtype=RECORD)
    records = []
    for row, number in enumerate(numbers):
        encoded, name, label = store.read(number), store.name(number), int(store.labels[number])
        image = probe(encoded, name)
        decode(image, name)
        rows[row] = (label, len(encoded), image.width, image.height, zlib.crc32(encoded), 0)
        records.append(datum.encode(datum.Datum(image.height, image.width, label, encoded)))
    return Chunk(first, rows, records)


@contextmanager
def _told(output_dir: Path) -> Iterator[None]:
    """Turn an error of the disk, which may be full, into a DataError."""
    try:
        yield
    except (lmdb.Error, OSError) as error:
        held = next(path for path in (output_dir, *output_dir.absolute().parents) if path.exists())
        disk = os.statvfs(held)
        free = f"{disk.f_bavail * disk.f_frsize >> 20} MiB are free there"
        raise DataError(f"{output_dir} cannot be written: {error} ({free}); run it again when it can") from error


@contextmanager
def _sole_builder(output_dir: Path) -> Iterator[None]:
    """Hold the folder against a second build. UsageError if another one holds it."""
    descriptor = os.open(output_dir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"{output_dir} is being written by another build; wait for it or stop it") from error
        yield
    finally:
        os.close(descriptor)


def _clear(output_dir: Path, splits: list[str]) -> None:
    """Remove an unfinished build. UsageError if there is a finished one, or anything that is not ours."""
    if all((output_dir / split / META).exists() for split in splits):
        raise UsageError(f"{output_dir} holds a finished LMDB; remove it or choose another --output-dir")
    for folder in (output_dir / split for split in splits):
        held = {path.name for path in folder.iterdir()} if folder.exists() else set()
        if held and (UNFINISHED not in held or held - OURS):
            raise UsageError(f"{folder} holds files that are not an unfinished build's; choose another --output-dir")
        for name in sorted(held - {UNFINISHED}):
            (folder / name).unlink()
