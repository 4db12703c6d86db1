"""Images in an LMDB: number -> encoded bytes and label, every record checked against its checksum."""

import json
import os
import re
import zlib
from pathlib import Path
from typing import NamedTuple

import lmdb
import numpy as np
from numpy.typing import NDArray

from data.lmdb_format import DATA, META, UNFINISHED, fingerprint, foreign, key, read_index, read_meta
from data.lmdb_pages import REBUILD, read_head
from utils.errors import DataError


class Extents(NamedTuple):
    """Where the bytes of n images lie in an open file: what one `pread` each takes, and their checksums and sizes."""

    file: int  # its descriptor, open as long as the store
    places: NDArray[np.int64]  # (n, 3) offset, length, crc32
    sizes: NDArray[np.int64]  # (n, 2) width, height in pixels; 0, 0 of an image that could not be decoded


class LmdbStore:
    """One split of an LMDB data set; see `data.lmdb_format`.

    Opening it reads and checks the two small files and the head of `data.mdb`. Errors are DataErrors that name the file
    or the record.
    """

    def __init__(self, folder: Path) -> None:
        records = read_head(folder / DATA).records
        if not (folder / META).exists():
            raise _without_meta(folder, records)
        meta = read_meta(folder)
        self.folder = folder
        self.classes = meta.classes
        self._index = read_index(folder)
        self._identity = {"listing": meta.listing, "content": meta.fingerprint}
        self._file = open(folder / DATA, "rb", buffering=0)  # noqa: SIM115 (open as long as the store)
        if not meta.count == len(self._index) == records:
            counts = f"meta.json {meta.count}, index.npy {len(self._index)}, data.mdb {records}"
            raise DataError(f"{folder} is of several builds: {counts} records; {REBUILD}")
        if fingerprint(meta.classes, self._index) != meta.fingerprint:
            raise DataError(f"{folder}: index.npy is damaged, its checksum is not that in meta.json; {REBUILD}")
        if (size := os.fstat(self._file.fileno()).st_size) != meta.data_bytes:
            found = f"{size} bytes, {meta.data_bytes} when it was built (mdb_copy -c moves records)"
            raise DataError(f"{folder / DATA} has {found}; copy the file as it was, or {REBUILD}")
        self._check_labels()

    def __len__(self) -> int:
        return len(self._index)

    def __reduce__(self) -> tuple[type["LmdbStore"], tuple[Path]]:
        return LmdbStore, (self.folder,)  # an open file cannot be sent to a process that was not forked

    @property
    def labels(self) -> NDArray[np.int32]:
        """The class of each image: (n,), mapped into memory."""
        return self._index["label"]

    def read(self, index: int) -> bytes:
        """The encoded bytes of one image. DataError if they are not those that the LMDB was built from."""
        row = self._index[index]
        try:
            encoded = os.pread(self._file.fileno(), int(row["bytes"]), int(row["offset"]))
        except OSError as error:
            raise DataError(f"{self.name(index)} cannot be read: {error.strerror}") from error
        if (checksum := zlib.crc32(encoded)) != row["crc32"]:
            found = f"expected {row['crc32']:08x}, found {checksum:08x}"
            raise DataError(f"{self.name(index)} has another crc32 than when it was built ({found}); {REBUILD}")
        return encoded

    def extents(self, indices: NDArray[np.int64]) -> Extents:
        """Where the bytes of the images `indices` (n,) lie, for a reader that checks their checksums itself."""
        rows = self._index[indices]
        places = np.stack([rows[name].astype(np.int64) for name in ("offset", "bytes", "crc32")], axis=1)
        sizes = np.stack([rows[name].astype(np.int64) for name in ("width", "height")], axis=1)
        return Extents(self._file.fileno(), places, sizes)

    def name(self, index: int) -> str:
        """How an error names an image."""
        return f"record {key(index).decode()} of {self.folder / DATA}"

    def identity(self) -> dict[str, str]:
        """`listing`: that of the folder the LMDB was built from; `content`: the fingerprint of every record."""
        return dict(self._identity)

    def describe(self) -> str:
        """One line for the log."""
        return f"LMDB {self.folder}: {len(self)} images of {len(self.classes)} classes"

    def _check_labels(self) -> None:
        wrong = (self.labels < 0) | (self.labels >= len(self.classes))
        if wrong.any():
            first = int(wrong.argmax())
            raise DataError(
                f"{self.name(first)} has label {self.labels[first]}, expected 0 to {len(self.classes) - 1}; {REBUILD}"
            )


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
