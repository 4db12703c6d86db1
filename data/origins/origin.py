"""One split of a data set as generate_lmdb reads it, whatever its files are: an order over the rows of a medium.

A medium gives the encoded bytes of row i in its own order. An Origin numbers those images by sorted (class, file), as
FolderStore does, so that the same images from any kind of data set make the same LMDB.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data.lmdb_store import LmdbStore
from data.stores import FolderStore, Store
from utils.errors import DataError, UsageError

LISTED_AT_ONCE = 1 << 16  # images whose names are joined at once, so that memory stays flat


class Medium(Protocol):
    """Where the bytes of images lie. What `read` raises is a DataError that names the image."""

    def read(self, row: int) -> bytes:
        """The encoded bytes of an image."""

    def name(self, row: int) -> str:
        """How an error names an image."""

    def sizes(self) -> NDArray[np.int64]:
        """The length of each image's bytes, (n,), or about that where they are only made when read."""


class Origin:
    """Images of named classes, numbered by sorted (label, file).

    `labels` and `files` (n,) are those of the medium's rows. `listing` takes the place of that of the names, where
    these are not known.
    """

    def __init__(
        self,
        title: str,
        classes: tuple[str, ...],
        labels: NDArray[np.int32],
        files: NDArray[np.bytes_],
        medium: Medium,
        listing: str | None = None,
    ) -> None:
        order = np.lexsort((files, labels))
        self.title, self.classes, self.medium = title, classes, medium
        self.labels, self.files, self._rows = labels[order], files[order], order
        self._sizes = medium.sizes()[order]
        self._listing = listing

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> bytes:
        """The encoded bytes of one image. DataError if they cannot be had."""
        return self.medium.read(int(self._rows[index]))

    def name(self, index: int) -> str:
        """How an error names an image."""
        return self.medium.name(int(self._rows[index]))

    def sizes(self) -> NDArray[np.int64]:
        """The length of each image's bytes, or about that: (n,)."""
        return self._sizes

    def names(self, first: int = 0, count: int | None = None) -> NDArray[np.bytes_]:
        """The names "class/file" of `count` images from `first` on, or of all: (count,)."""
        part = slice(first, None if count is None else first + count)
        folders = np.array([os.fsencode(label) + b"/" for label in self.classes])
        return np.strings.add(folders[self.labels[part]], self.files[part])

    def listing(self) -> str:
        """The sha256 of the names of all images in order, each ended by a newline, as FolderStore has it."""
        if self._listing is not None:
            return self._listing
        digest = hashlib.sha256()
        for first in range(0, len(self), LISTED_AT_ONCE):
            digest.update(b"".join(name + b"\n" for name in self.names(first, LISTED_AT_ONCE).tolist()))
        return digest.hexdigest()

    def keep(self, kept: NDArray[np.bool_]) -> "Origin":
        """Only the images that `kept` (n,) says, of the same classes."""
        other = object.__new__(Origin)
        other.title, other.classes, other.medium = self.title, self.classes, self.medium
        other.labels, other.files, other._rows = self.labels[kept], self.files[kept], self._rows[kept]
        other._sizes, other._listing = self._sizes[kept], None
        if self._listing is not None:
            other._listing = hashlib.sha256(self._listing.encode() + np.packbits(kept).tobytes()).hexdigest()
        return other

    def describe(self) -> str:
        """One line for the log."""
        return f"{self.title}: {len(self)} images of {len(self.classes)} classes"


class Stored:
    """The images of a store as a medium."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.read, self.name = store.read, store.name

    def sizes(self) -> NDArray[np.int64]:
        """The sizes that the LMDB's index holds, or those of the files."""
        numbers = np.arange(len(self._store))
        if (extents := self._store.extents(numbers)) is not None:
            return extents.places[:, 1]
        return file_sizes(self._store.name, len(self._store))


def origin_of(store: Store | Origin) -> Origin:
    """A folder or an LMDB of ours as an Origin. The images of an LMDB are named by their numbers."""
    if isinstance(store, Origin):
        return store
    title = store.describe().partition(":")[0]
    labels = np.asarray(store.labels)
    if isinstance(store, FolderStore):
        return Origin(title, store.classes, labels, store.files, Stored(store))
    if not isinstance(store, LmdbStore):
        raise UsageError(f"{title} can be read, but no LMDB can be built from it")
    numbers = numbered(len(store), b"")
    return Origin(title, store.classes, labels, numbers, Stored(store), store.identity()["listing"])


def file_sizes(name: Callable[[int], str], count: int) -> NDArray[np.int64]:
    """The sizes of the files name(0) ... name(count - 1); 0 of one that is not there, which reading it will tell."""
    return np.fromiter((_size(name(row)) for row in range(count)), dtype=np.int64, count=count)


def numbered(count: int, ending: bytes) -> NDArray[np.bytes_]:
    """Names for images that have none: their numbers, of eight digits, and an `ending`."""
    names = (b"%08d%b" % (number, ending) for number in range(count))
    return np.fromiter(names, dtype=f"S{8 + len(ending)}", count=count)


def read_extent(path: Path | str, offset: int, length: int, name: str) -> bytes:
    """`length` bytes of a file from `offset` on. DataError, naming the image by `name`, if they are not there."""
    try:
        with open(path, "rb", buffering=0) as file:
            found = os.pread(file.fileno(), length, offset)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror}") from error
    if len(found) < length:
        raise DataError(f"{name} cannot be read: {path} ends {length - len(found)} bytes too early; copy it again")
    return found


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
