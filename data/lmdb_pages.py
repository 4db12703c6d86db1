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

# MDB_meta, after a page header of 16 bytes: magic, version, page size, records in the main table, its root page, last
# page used, transaction number.
META_PAGE = struct.Struct("<16xII16xI44x32xQQQQ")
MAGIC, LMDB_VERSION = 0xBEEFC0DE, 1
NEWER_HEAD = struct.Struct("<24xII")  # magic and version in LMDB 1.0, whose page header is longer
PAGE_SIZES = {2**power for power in range(8, 17)}

PAGE_HEADER = struct.Struct("<QxxHHH")  # number, flags, end of the list of nodes, begin of the free space's end
NODE = struct.Struct("<HHHH")  # low and high half of a size or page, flags (of a branch: top of the page), key size
PAGE_NUMBER = struct.Struct("<Q")
BRANCH, LEAF, OVERFLOW, ELSEWHERE = 1, 2, 4, 1
NO_PAGE = (1 << 64) - 1
DEPTH = 32  # levels of a tree, more than any has: a damaged one may be a circle


class Head(NamedTuple):
    """What the newer meta page says."""

    page_size: int
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


def places(path: Path) -> Iterator[Place]:
    """Every record of the `data.mdb` at `path`, in the order of the keys; a million in a few seconds.

    DataError at the first page that is not what the tree says it is.
    """
    head = read_head(path)
    with open(path, "rb", buffering=0) as file:
        if head.root != NO_PAGE:
            yield from _below(file.fileno(), path, head, head.root, DEPTH)


def _below(file: int, path: Path, head: Head, number: int, depth: int) -> Iterator[Place]:
    """The records of a page and of all pages that it leads to."""
    page, flags, nodes = _page(file, path, head, number)
    if depth == 0:
        raise DataError(f"{path} is damaged: its pages lead in a circle; copy it again, or {REBUILD}")
    for node in nodes:
        low, high, top, key_size = NODE.unpack_from(page, node)
        value = node + NODE.size + key_size
        key = page[node + NODE.size : value]
        if flags & BRANCH:
            yield from _below(file, path, head, low | high << 16 | top << 32, depth - 1)
        elif top & ELSEWHERE:
            (place,) = PAGE_NUMBER.unpack_from(page, value)
            yield Place(key, _overflow(file, path, head, place, low | high << 16), low | high << 16)
        elif value + (low | high << 16) <= head.page_size:
            yield Place(key, number * head.page_size + value, low | high << 16)
        else:
            raise _damaged(path, number)


def _page(file: int, path: Path, head: Head, number: int) -> tuple[bytes, int, tuple[int, ...]]:
    """A branch or leaf page: its bytes, its flags, and where in it its nodes begin."""
    page = os.pread(file, head.page_size, number * head.page_size) if number <= head.last_page else b""
    if len(page) < head.page_size:
        raise _damaged(path, number)
    own, flags, lower, upper = PAGE_HEADER.unpack_from(page)
    count = (lower - 16) // 2
    if own != number or flags not in (BRANCH, LEAF) or count < 0 or not lower <= upper <= head.page_size:
        raise _damaged(path, number)
    nodes = struct.unpack_from(f"<{count}H", page, 16)
    for node in nodes:
        if not upper <= node <= head.page_size - NODE.size:
            raise _damaged(path, number)
        _, _, top, key_size = NODE.unpack_from(page, node)
        elsewhere = PAGE_NUMBER.size if flags & LEAF and top & ELSEWHERE else 0
        if node + NODE.size + key_size + elsewhere > head.page_size:
            raise _damaged(path, number)
    return page, flags, nodes


def _overflow(file: int, path: Path, head: Head, number: int, length: int) -> int:
    """Where a value begins that lies in overflow pages from `number` on."""
    begin = number * head.page_size + 16
    header = os.pread(file, 16, begin - 16) if begin + length <= (head.last_page + 1) * head.page_size else b""
    if len(header) < 16 or PAGE_HEADER.unpack_from(header + b"\0\0")[:2] != (number, OVERFLOW):
        raise _damaged(path, number)
    return begin


def _damaged(path: Path, number: int) -> DataError:
    return DataError(f"{path} is damaged: page {number} is not what it was; copy it again, or {REBUILD}")
