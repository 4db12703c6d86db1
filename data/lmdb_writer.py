"""Builds an LMDB data set from any source: processes read and check the images, this one writes them in order.

A build is finished when both splits have their meta.json, which are written last. Until then `unfinished.json` says
what is being built and `data.lmdb_journal` how far it is: killed and run again, a build goes on after its last
transaction if source and settings are the same and every record passes its check, and starts anew otherwise.
"""

import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import lmdb
import numpy as np
from numpy.typing import NDArray

from data import datum, lmdb_journal
from data.lmdb_format import (
    CONTENT,
    DATA,
    INDEX,
    META,
    RECORD,
    UNFINISHED,
    VERSION,
    Meta,
    fingerprint,
    key,
    read_index,
    write_index,
    write_meta,
)
from data.lmdb_journal import JOURNAL, SKIPPED
from data.lmdb_pages import places
from data.lmdb_space import check_space
from data.origins.origin import Origin, origin_of
from data.stores import Store
from data.treatment import Treated, Treatment, treat
from data.workers import in_order
from utils.errors import DataError, EnvironmentFault, UsageError
from utils.files import sync_folder, write_json

CHUNK = 32  # images a worker checks at once: 4 MB of ImageNet
COMMIT = 8 << 20  # bytes that a transaction writes at least: each waits for the disk, and is what a kill may cost
FIRST_MAP = 1 << 30  # bytes that data.mdb may reach before its map is first doubled; the file is no larger than needed
WHOLE = {DATA, INDEX, META, UNFINISHED, JOURNAL, SKIPPED}
OURS = WHOLE | {f"{name}.tmp" for name in (INDEX, META, UNFINISHED)}


class Chunk(NamedTuple):
    """Consecutive images, read and checked: rows of the journal, records for data.mdb, lines about those left out."""

    rows: NDArray[np.void]
    records: list[bytes]
    skipped: list[str]


class Outcome(NamedTuple):
    """What a split has got: images, those left out, and those of the images that cannot be decoded."""

    images: int
    skipped: int
    bad: int


def build(
    sources: dict[str, Store | Origin],
    output_dir: Path,
    workers: int,
    progress: Callable[[str, int], None],
    treatment: Treatment = Treatment(),  # noqa: B008 (frozen)
    say: Callable[[str], None] = print,
) -> dict[str, Outcome]:
    """Write each of `sources` (by split) to a folder of `output_dir`, going on with an unfinished build of the same.

    `progress` is told the split and images done, `say` what there is to say. UsageError if `output_dir` holds anything
    but an unfinished build, DataError at the first bad image, unless `treatment` bears it, or when the disk is full.
    """
    origins = {split: origin_of(source) for split, source in sources.items()}
    tasks = {split: _task(origin, treatment) for split, origin in origins.items()}
    with _told(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
        with _sole_builder(output_dir):
            if not _is_finished(output_dir, tasks):
                for split, task in tasks.items():
                    _prepare(output_dir / split, task, say)
                say(check_space(output_dir, origins, treatment))
                metas = {
                    split: write_split(
                        origin, output_dir / split, workers, partial(progress, split), treatment=treatment, say=say
                    )
                    for split, origin in origins.items()
                }
                for split, meta in metas.items():
                    write_meta(output_dir / split, meta)
            return {split: _tidy(output_dir / split) for split in origins}


def write_split(
    store: Store | Origin,
    folder: Path,
    workers: int,
    progress: Callable[[int], None],
    map_size: int = FIRST_MAP,
    treatment: Treatment = Treatment(),  # noqa: B008 (frozen)
    say: Callable[[str], None] = print,
) -> Meta:
    """Write `data.mdb` and `index.npy` to `folder`; comes back with what `meta.json` has to say, once all is done.

    Goes on after what is there already.
    """
    origin = origin_of(store)
    done = _go_on(folder, origin, say)
    progress(done)
    chunks = in_order(partial(check, origin, treatment), range(done, len(origin), CHUNK), workers)
    with lmdb.open(str(folder), map_size=map_size, lock=False) as environment:
        for chunk in _joined(chunks):
            lmdb_journal.append(folder, chunk.rows, chunk.skipped)
            _put(environment, chunk.records)
            progress(len(chunk.rows))
    return _close(folder, origin, treatment)


def check(origin: Origin, treatment: Treatment, first: int) -> Chunk:
    """CHUNK images from `first` on. DataError at the first bad one, unless `treatment` bears it."""
    numbers = range(first, min(first + CHUNK, len(origin)))
    chunk = Chunk(np.zeros(len(numbers), dtype=lmdb_journal.ROW), [], [])
    for row, number in zip(chunk.rows, numbers, strict=True):
        treated, label = _treated(origin, number, treatment), int(origin.labels[number])
        row["label"], row["source_bytes"] = label, origin.sizes()[number]
        if isinstance(treated, DataError):
            name = os.fsdecode(bytes(origin.names(number, 1)[0]))
            chunk.skipped.append(" ".join(f"{name}\t{treated}".splitlines()))
            continue
        encoded, width, height = treated
        content = (label, len(encoded), width, height, zlib.crc32(encoded))
        for (field, _), value in zip(CONTENT, content, strict=True):
            row[field] = value
        row["kept"] = 1
        chunk.records.append(datum.encode(datum.Datum(height, width, label, encoded)))
    return chunk


def _treated(origin: Origin, number: int, treatment: Treatment) -> Treated | DataError:
    """An image as it is to be written, or why it is left out. A bad one that is kept has no size."""
    try:
        encoded = origin.read(number)
    except DataError as error:
        if treatment.on_bad_image == "skip":
            return error
        raise  # there is nothing to keep
    try:
        return treat(encoded, origin.name(number), treatment)
    except DataError as error:
        if treatment.on_bad_image == "error":
            raise
        return error if treatment.on_bad_image == "skip" else Treated(encoded, 0, 0)


def _joined(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """The chunks, as many together as a transaction takes."""
    held: list[Chunk] = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += sum(map(len, chunk.records))
        if size >= COMMIT:
            yield _join(held)
            held, size = [], 0
    if held:
        yield _join(held)


def _join(chunks: list[Chunk]) -> Chunk:
    rows, records, skipped = zip(*chunks, strict=True)
    return Chunk(np.concatenate(rows), list(chain(*records)), list(chain(*skipped)))


def _put(environment: lmdb.Environment, records: list[bytes]) -> None:
    """Add records in one transaction, which is repeated with twice the map as long as the map is full."""
    while True:
        try:
            with environment.begin(write=True) as transaction:
                first = transaction.stat()["entries"]
                for number, record in enumerate(records, first):
                    transaction.put(key(number), record, append=True)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])


def _close(folder: Path, origin: Origin, treatment: Treatment) -> Meta:
    """Write `index.npy` from the journal and the places of the records."""
    rows = lmdb_journal.read_journal(folder)
    kept = rows["kept"].astype(np.bool_)
    if not kept.any():
        raise DataError(f"none of the {len(origin)} images of {origin.title} is good: see {folder / SKIPPED}")
    index = np.zeros(int(kept.sum()), dtype=RECORD)
    for field, _ in CONTENT:
        index[field] = rows[field][kept]
    for row, place in zip(index, places(folder / DATA), strict=True):
        row["offset"] = place.offset + datum.prefix(int(row["height"]), int(row["width"]), int(row["bytes"]))
    write_index(folder, index)
    listing = origin.listing() if kept.all() else origin.keep(kept).listing()
    if treatment.encodes:  # a run on other pixels is not the run on these
        sides = f"{treatment.shorter_side} {treatment.max_side} {treatment.quality}"
        listing = hashlib.sha256(f"{listing} {sides}".encode()).hexdigest()
    size = os.path.getsize(folder / DATA)
    return Meta(VERSION, len(index), size, origin.classes, listing, fingerprint(origin.classes, index))


def _task(origin: Origin, treatment: Treatment) -> dict[str, object]:
    """What `unfinished.json` says: another build of the same task may go on with the files beside it."""
    digest = hashlib.sha256(json.dumps([origin.listing(), origin.classes]).encode())
    digest.update(np.ascontiguousarray(origin.labels).data)
    return {"count": len(origin), "source": digest.hexdigest(), "treatment": treatment.settings()}


def _read_task(folder: Path) -> dict[str, object]:
    """The task that `folder` holds, or nothing where that cannot be read."""
    try:
        task = json.loads((folder / UNFINISHED).read_bytes())
    except (OSError, ValueError):
        return {}
    return task if isinstance(task, dict) else {}


def _is_finished(output_dir: Path, tasks: dict[str, dict[str, object]]) -> bool:
    """Whether all is done but for removing what only a build needs. UsageError if a whole LMDB is there."""
    if not all((output_dir / split / META).exists() for split in tasks):
        return False
    left = [split for split in tasks if (output_dir / split / UNFINISHED).exists()]
    if not left or any(_read_task(output_dir / split) != tasks[split] for split in left):
        raise UsageError(f"{output_dir} holds a finished LMDB; remove it or choose another --output-dir")
    return True


def _prepare(folder: Path, task: dict[str, object], say: Callable[[str], None]) -> None:
    """Make `folder` one that a build of `task` can go on with. UsageError if it holds anything that is not ours."""
    held = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if held and (UNFINISHED not in held or held - OURS):
        raise UsageError(f"{folder} holds files that are not an unfinished build's; choose another --output-dir")
    (folder / META).unlink(missing_ok=True)
    before = _read_task(folder)
    if held and before != task:
        changed = "the source" if before.get("source") != task["source"] else "options or Pillow's version"
        say(f"{folder} is an unfinished build, but {changed} changed since: starting anew")
        _empty(folder)
    folder.mkdir(exist_ok=True)
    write_json(folder / UNFINISHED, task)


def _go_on(folder: Path, origin: Origin, say: Callable[[str], None]) -> int:
    """How many images are done already. Starts anew where there is nothing, or nothing that passes its check."""
    if not len(lmdb_journal.read_journal(folder)):
        _empty(folder)
        return 0
    try:
        done = lmdb_journal.written(folder, origin)
    except (DataError, EnvironmentFault, OSError) as error:
        say(f"{folder} is an unfinished build that does not pass its check, starting anew: {error}")
        _empty(folder)
        return 0
    say(f"{folder} is an unfinished build, going on after {done} of {len(origin)} images, which passed their check")
    return done


def _empty(folder: Path) -> None:
    for name in OURS - {UNFINISHED}:
        (folder / name).unlink(missing_ok=True)


def _tidy(folder: Path) -> Outcome:
    """Remove what only a build needs, and look at what came out."""
    (folder / JOURNAL).unlink(missing_ok=True)
    (folder / UNFINISHED).unlink(missing_ok=True)
    sync_folder(folder)
    index, skipped = read_index(folder), folder / SKIPPED
    lines = skipped.read_bytes().count(b"\n") if skipped.exists() else 0
    return Outcome(len(index), lines, int((index["width"] == 0).sum()))


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
