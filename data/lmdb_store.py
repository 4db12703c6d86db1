"""Images in an LMDB: number -> encoded bytes and label, every record checked against its checksum."""

import functools
import json
import re
import zlib
from pathlib import Path

import lmdb
import numpy as np
from numpy.typing import NDArray

from data import datum
from data.lmdb_format import (
    DATA,
    META,
    REBUILD,
    UNFINISHED,
    count_records,
    fingerprint,
    foreign,
    key,
    read_index,
    read_meta,
)
from utils.errors import DataError


class LmdbStore:
    """One split of an LMDB data set; see `data.lmdb_format`.

    Opening it reads and checks the two small files and the head of `data.mdb`, which LMDB itself opens at the first
    read: in each worker, after the fork. Errors are DataErrors that name the file or the record.
    """

    def __init__(self, folder: Path) -> None:
        records = count_records(folder / DATA)
        if not (folder / META).exists():
            raise _without_meta(folder, records)
        meta = read_meta(folder)
        self.folder = folder
        self.classes = meta.classes
        self._index = read_index(folder)
        self._identity = {"listing": meta.listing, "content": meta.fingerprint}
        self._environment: lmdb.Environment | None = None
        if not meta.count == len(self._index) == records:
            counts = f"meta.json {meta.count}, index.npy {len(self._index)}, data.mdb {records}"
            raise DataError(f"{folder} is of several builds: {counts} records; {REBUILD}")
        if fingerprint(meta.classes, self._index) != meta.fingerprint:
            raise DataError(f"{folder}: index.npy is damaged, its checksum is not that in meta.json; {REBUILD}")
        self._check_labels()

    def __len__(self) -> int:
        return len(self._index)

    def __reduce__(self) -> tuple[type["LmdbStore"], tuple[Path]]:
        return LmdbStore, (self.folder,)  # an open LMDB cannot be sent to a process that was not forked

    @property
    def labels(self) -> NDArray[np.int32]:
        """The class of each image: (n,), mapped into memory."""
        return self._index["label"]

    def read(self, index: int) -> bytes:
        """The encoded bytes of one image. DataError if they are not those that the LMDB was built from."""
        if self._environment is None:
            self._environment = _environment(str(self.folder), (self.folder / DATA).stat().st_ino)
        try:
            with self._environment.begin(buffers=True) as transaction:
                record = transaction.get(key(index))
                image = datum.decode(b"" if record is None else record)
        except (lmdb.Error, ValueError) as error:
            raise DataError(f"{self.name(index)} is damaged: {error}; {REBUILD}") from error
        self._check(index, image)
        return image.data

    def name(self, index: int) -> str:
        """How an error names an image."""
        return f"record {key(index).decode()} of {self.folder / DATA}"

    def identity(self) -> dict[str, str]:
        """`listing`: that of the folder the LMDB was built from; `content`: the fingerprint of every record."""
        return dict(self._identity)

    def describe(self) -> str:
        """One line for the log."""
        return f"LMDB {self.folder}: {len(self)} images of {len(self.classes)} classes"

    def _check(self, index: int, image: datum.Datum) -> None:
        expected = self._index[index]
        checksum = zlib.crc32(image.data)
        if checksum != expected["crc32"]:
            found = f"expected {expected['crc32']:08x}, found {checksum:08x}"
            raise DataError(f"{self.name(index)} has another crc32 than when it was built ({found}); {REBUILD}")
        if image[:3] != (expected["height"], expected["width"], expected["label"]):
            raise DataError(f"{self.name(index)} is damaged: its size or label is not that in index.npy; {REBUILD}")

    def _check_labels(self) -> None:
        wrong = (self.labels < 0) | (self.labels >= len(self.classes))
        if wrong.any():
            first = int(wrong.argmax())
            raise DataError(
                f"{self.name(first)} has label {self.labels[first]}, expected 0 to {len(self.classes) - 1}; {REBUILD}"
            )


@functools.cache
def _environment(folder: str, inode: int) -> lmdb.Environment:
    """LMDB's handle on a file; one a process, since LMDB refuses to open a file twice. `inode` tells a rebuilt file.

    Nothing but reading: without a lock, which a read-only disk would not allow, and without read-ahead, which random
    access makes useless.
    """
    try:
        return lmdb.open(folder, readonly=True, create=False, lock=False, readahead=False)
    except lmdb.Error as error:
        raise DataError(f"{folder} cannot be opened: {error}; {REBUILD}") from error


def _without_meta(folder: Path, records: int) -> DataError:
    """The error for an LMDB without meta.json: an unfinished build, or another program's. No value is looked at."""
    if (folder / UNFINISHED).exists():
        written = f"{records} of {_planned(folder)} records"
        return DataError(f"{folder} has no meta.json: build unfinished, {written}; {REBUILD}")
    try:
        with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as reading:
            first = next(reading.cursor().iternext(values=False), None)
    except lmdb.Error as error:
        return DataError(f"{folder} has no meta.json and cannot be opened: {error}; {REBUILD}")
    if first is None or re.fullmatch(rb"\d{8}", first):
        return DataError(f"{folder} has no meta.json: build unfinished after {records} records; {REBUILD}")
    return foreign(folder, f"first key {first!r}, no meta.json")


def _planned(folder: Path) -> str:
    """How many records an unfinished build was to have."""
    try:
        return str(json.loads((folder / UNFINISHED).read_bytes())["count"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown many"
