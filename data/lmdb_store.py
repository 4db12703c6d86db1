"""Images in an LMDB: number -> encoded bytes and label, every record checked against its checksum."""

import json
import os
import re
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data import datum
from data.lmdb_format import DATA, META, UNFINISHED, describe, foreign, key
from data.lmdb_pages import REBUILD, places, read_head
from utils.errors import DataError


class Extents(NamedTuple):
    """Where the bytes of n images lie in an open file: what one `pread` each takes, and their checksums and sizes."""

    file: int  # its descriptor, open as long as the store
    places: NDArray[np.int64]  # (n, 3) offset, length, crc32
    sizes: NDArray[np.int64]  # (n, 2) width, height in pixels; 0, 0 of an image that could not be decoded


class LmdbStore:
    """One split of an LMDB data set; see `data.lmdb_format`.

    Opening it reads and checks the two small files and the head of `data.mdb`. Errors are DataErrors that name the file
    or the record. A `data.mdb` that is written over while it is open gives errors too, for its checksums are known.
    """

    def __init__(self, folder: Path) -> None:
        records = read_head(folder / DATA).records
        if not (folder / META).exists():
            raise _without_meta(folder, records)
        self.folder = folder
        self.meta, self.index = describe(folder)
        self.classes = self.meta.classes
        self._file = open(folder / DATA, "rb", buffering=0)  # noqa: SIM115 (open as long as the store)
        if self.meta.count != records:
            counts = f"meta.json {self.meta.count}, data.mdb {records}"
            raise DataError(f"{folder} is of several builds: {counts} records; {REBUILD}")
        size = os.fstat(self._file.fileno()).st_size
        if size != self.meta.data_bytes:
            found = f"{size} bytes, {self.meta.data_bytes} when it was built (mdb_copy -c moves records)"
            raise DataError(f"{folder / DATA} has {found}; copy the file as it was, or {REBUILD}")
        self._check_rows()

    def __len__(self) -> int:
        return len(self.index)

    def __reduce__(self) -> tuple[type["LmdbStore"], tuple[Path]]:
        return LmdbStore, (self.folder,)  # an open file cannot be sent to a process that was not forked

    @property
    def labels(self) -> NDArray[np.int32]:
        """The class of each image: (n,)."""
        return self.index["label"]

    def read(self, index: int) -> bytes:
        """The encoded bytes of one image. DataError if they are not those that the LMDB was built from."""
        row = self.index[index]
        encoded = self._pread(index, int(row["offset"]), int(row["bytes"]))
        if (checksum := zlib.crc32(encoded)) != row["crc32"]:
            found = f"expected {row['crc32']:08x}, found {checksum:08x}"
            raise DataError(f"{self.name(index)} has another crc32 than when it was built ({found}); {REBUILD}")
        return encoded

    def place(self, index: int) -> tuple[int, int]:
        """Where in `data.mdb` a whole record begins, with the image's size before and its label after the image, and
        its length."""
        row = self.index[index]
        label, height, width, length = (int(row[name]) for name in ("label", "height", "width", "bytes"))
        without_image = len(datum.encode(datum.Datum(height, width, label, b""))) - datum.prefix(height, width, 0)
        before = datum.prefix(height, width, length)
        return int(row["offset"]) - before, before + length + without_image

    def read_record(self, index: int) -> bytes:
        """What `read` gives, once label and size in the record have been compared with the index too."""
        encoded, row = self.read(index), self.index[index]
        expected = datum.encode(datum.Datum(int(row["height"]), int(row["width"]), int(row["label"]), encoded))
        begin, length = self.place(index)
        if begin < 0 or self._pread(index, begin, length) != expected:
            raise DataError(f"{self.name(index)} has another label or size than in index.npy; {REBUILD}")
        return encoded

    def extents(self, indices: NDArray[np.int64]) -> Extents:
        """Where the bytes of the images `indices` (n,) lie, for a reader that checks their checksums itself."""
        rows = self.index[indices]
        places = np.stack([rows[name].astype(np.int64) for name in ("offset", "bytes", "crc32")], axis=1)
        sizes = np.stack([rows[name].astype(np.int64) for name in ("width", "height")], axis=1)
        return Extents(self._file.fileno(), places, sizes)

    def name(self, index: int) -> str:
        """How an error names an image."""
        return f"record {key(index).decode()} of {self.folder / DATA}"

    def identity(self) -> dict[str, str]:
        """`listing`: that of the folder the LMDB was built from; `content`: the fingerprint of every record."""
        return {"listing": self.meta.listing, "content": self.meta.fingerprint}

    def describe(self) -> str:
        """One line for the log."""
        return f"LMDB {self.folder}: {len(self)} images of {len(self.classes)} classes"

    def _pread(self, index: int, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._file.fileno(), length, offset)
        except OSError as error:
            raise DataError(f"{self.name(index)} cannot be read: {error.strerror}") from error

    def _check_rows(self) -> None:
        """Every label is a class and every image lies within the file. DataError: the builder was wrong."""
        labels, classes = self.labels, len(self.classes)
        wrong = (labels < 0) | (labels >= classes)
        if wrong.any():
            first = int(wrong.argmax())
            raise DataError(f"{self.name(first)} has label {labels[first]}, expected 0 to {classes - 1}; {REBUILD}")
        beyond = self.index["offset"] + self.index["bytes"] > self.meta.data_bytes
        if beyond.any():
            raise DataError(f"{self.name(int(beyond.argmax()))} lies beyond the end of the file; {REBUILD}")


def _without_meta(folder: Path, records: int) -> DataError:
    """The error for an LMDB without meta.json: an unfinished build, or another program's. No value is looked at."""
    if (folder / UNFINISHED).exists():
        written = f"{records} of {_planned(folder)} records"
        return DataError(f"{folder} has no meta.json: build unfinished, {written}; {REBUILD}")
    first = next(places(folder / DATA), None)
    if first is None or re.fullmatch(rb"\d{8}", first.key):
        return DataError(f"{folder} has no meta.json: build unfinished after {records} records; {REBUILD}")
    return foreign(folder, f"first key {first.key!r}, no meta.json")


def _planned(folder: Path) -> str:
    """How many records an unfinished build was to have."""
    try:
        return str(json.loads((folder / UNFINISHED).read_bytes())["count"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown many"
