"""The pages of LMDB's `data.mdb`, read without LMDB's engine, which follows damaged ones out of the file and dies.

Written after mdb.c of LMDB 0.9 on 64-bit machines: a file is pages of one size, the first two are meta pages of which
the newer transaction holds; from its root a B-tree of branch and leaf pages leads to the records in the order of their
keys. A record longer than half a page lies by itself, in consecutive overflow pages.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from utils.errors import DataError, EnvironmentFault

REBUILD = "build it again with scripts/generate_lmdb.py"

# MDB_meta, after a page header of 16 bytes: magic, version, page size; of the main table its flags, depth, branch, leaf
# and overflow pages, records and root page; last page used, transaction number.
META_PAGE = struct.Struct("<16xII16xI44x4xHHQQQQQQQ")
MAGIC, LMDB_VERSION = 0xBEEFC0DE, 1
NEWER_HEAD = struct.Struct("<24xII")  # magic and version in LMDB 1.0, whose page header is longer
PAGE_SIZES = {2**power for power in range(8, 17)}

PAGE_HEADER = struct.Struct("<QxxHHH")  # number, flags, end of the list of nodes, begin of the free space's end
OVERFLOW_HEADER = struct.Struct("<QxxHI")  # number, flags, pages
NODE = struct.Struct("<HHHH")  # low and high half of a size or page, flags (of a branch: top of the page), key size
PAGE_NUMBER = struct.Struct("<Q")
BRANCH, LEAF, OVERFLOW, ELSEWHERE = 1, 2, 4, 1
NO_PAGE = (1 << 64) - 1
DEPTH = 32  # levels of a tree, more than any has: a damaged one may be a circle


class Head(NamedTuple):
    """What the newer meta page says."""

    page_size: int
    flags: int
    depth: int
    branches: int
    leaves: int
    overflows: int
    records: int
    root: int
    last_page: int
    transaction: int


class Place(NamedTuple):
    """A record: its key, and where in the file its value lies."""

    key: bytes
    offset: int
    length: int


def read_head(path: Path) -> Head:
    """The head of the `data.mdb` at `path`.

    DataError if the file is truncated or no LMDB, EnvironmentFault if it is of another version of LMDB.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        first = _meta_page(path, file.read(META_PAGE.size))
        file.seek(first.page_size)
        second = _meta_page(path, file.read(META_PAGE.size))
    head = max(first, second, key=lambda meta: meta.transaction)
    needed = (head.last_page + 1) * head.page_size
    if size < needed:
        raise DataError(f"{path} has {size} bytes, needs {needed}: a truncated copy; copy it again, or {REBUILD}")
    return head


def _meta_page(path: Path, head: bytes) -> Head:
    """The fields of META_PAGE that `head` holds."""
    if len(head) < META_PAGE.size:
        raise DataError(f"{path} ends within its first two pages: a truncated copy; copy it again, or {REBUILD}")
    magic, version, *fields = META_PAGE.unpack(head)
    if magic != MAGIC:
        magic, version = NEWER_HEAD.unpack_from(head)
    if magic != MAGIC:
        raise DataError(f"{path} is no LMDB (it begins with {head[:24].hex()}); {REBUILD}")
    if version != LMDB_VERSION:
        raise EnvironmentFault(
            f"{path} is of LMDB data version {version}, this program reads {LMDB_VERSION} (LMDB 0.9); {REBUILD}"
        )
    if fields[0] not in PAGE_SIZES:
        raise DataError(f"{path} is damaged: its pages would have {fields[0]} bytes; copy it again, or {REBUILD}")
    return Head(*fields)


def places(path: Path, damages: list[str] | None = None) -> Iterator[Place]:
    """Every record of the `data.mdb` at `path`, in the order of the keys; a million in a few seconds.

    DataError at the first page that is not what the tree says it is; with `damages`, each such page adds a line to it,
    and what it leads to is left out.
    """
    head = read_head(path)
    with open(path, "rb", buffering=0) as file:
        tree = _Tree(path, file.fileno(), head, damages)
        if head.root != NO_PAGE:
            yield from tree.below(head.root, 1)
    tree.compare_with_head()


class _Tree:
    """The B-tree of a file, as far as it was walked."""

    def __init__(self, path: Path, file: int, head: Head, damages: list[str] | None) -> None:
        self.path, self.file, self.head, self.damages = path, file, head, damages
        self.branches = self.leaves = self.overflows = self.records = self.depth = 0
        self.seen = bytearray(head.last_page // 8 + 1)  # a bit for each page

    def below(self, number: int, depth: int) -> Iterator[Place]:
        """The records of a page and of all pages that it leads to."""
        try:
            page, flags, nodes = self._page(number, depth)
        except DataError as error:
            self._refuse(error)
            return
        for node in nodes:
            low, high, top, key_size = NODE.unpack_from(page, node)
            if flags == BRANCH:
                yield from self.below(low | high << 16 | top << 32, depth + 1)
                continue
            key, length = page[node + NODE.size : node + NODE.size + key_size], low | high << 16
            try:
                yield Place(key, self._value(page, number, node + NODE.size + key_size, length, top), length)
            except DataError as error:
                self._refuse(error)

    def compare_with_head(self) -> None:
        """The walk is over, and must have come across as much as the head of the file says."""
        head = self.head
        expected = (head.depth, head.branches, head.leaves, head.overflows, head.records)
        found = (self.depth, self.branches, self.leaves, self.overflows, self.records)
        if not self.damages and expected != found:
            what = "levels, branch, leaf and overflow pages and records"
            told = f"its head tells of {what} {expected}, found {found}"
            self._refuse(DataError(f"{self.path} is damaged: {told}; copy it again, or {REBUILD}"))

    def _page(self, number: int, depth: int) -> tuple[bytes, int, tuple[int, ...]]:
        """A branch or leaf page that was not met before: its bytes, its flags, and where in it its nodes begin."""
        size = self.head.page_size
        page = os.pread(self.file, size, number * size) if number <= self.head.last_page else b""
        if len(page) < size or depth > DEPTH or self.seen[number // 8] >> number % 8 & 1:
            raise self._damaged(number)
        self.seen[number // 8] |= 1 << number % 8
        own, flags, lower, upper = PAGE_HEADER.unpack_from(page)
        count = (lower - 16) // 2
        if own != number or flags not in (BRANCH, LEAF) or count < 1 or not lower <= upper <= size:
            raise self._damaged(number)
        nodes = struct.unpack_from(f"<{count}H", page, 16)
        for node in nodes:
            if not upper <= node <= size - NODE.size:
                raise self._damaged(number)
            low, high, top, key_size = NODE.unpack_from(page, node)
            elsewhere = PAGE_NUMBER.size if top & ELSEWHERE else low | high << 16
            if node + NODE.size + key_size + (elsewhere if flags == LEAF else 0) > size:
                raise self._damaged(number)
        self.depth = max(self.depth, depth)
        self.branches += flags == BRANCH
        self.leaves += flags == LEAF
        return page, flags, nodes

    def _value(self, page: bytes, number: int, value: int, length: int, top: int) -> int:
        """Where in the file the value of a leaf page's node begins, which is `value` in the page or elsewhere."""
        size = self.head.page_size
        self.records += 1
        if top not in (0, ELSEWHERE):
            raise self._damaged(number)
        if not top:
            return number * size + value
        (place,) = PAGE_NUMBER.unpack_from(page, value)
        pages = -(-(16 + length) // size)
        header = os.pread(self.file, 16, place * size) if place + pages <= self.head.last_page + 1 else b""
        if len(header) < 16 or OVERFLOW_HEADER.unpack(header) != (place, OVERFLOW, pages):
            raise self._damaged(place)
        self.overflows += pages
        return place * size + 16

    def _refuse(self, error: DataError) -> None:
        if self.damages is None:
            raise error
        self.damages.append(str(error))

    def _damaged(self, number: int) -> DataError:
        return DataError(f"{self.path} is damaged: page {number} is not what it was; copy it again, or {REBUILD}")
