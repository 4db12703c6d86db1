"""The files of one split of an LMDB data set: `data.mdb`, `index.npy` and, written last, `meta.json`.

`data.mdb` maps an image's number, as 8 decimal digits, to a Caffe Datum. `index.npy` holds a RECORD for each image, in
order. `meta.json` holds a `Meta`; without it the build is unfinished. Nothing is pickled.
"""

import hashlib
import json
import os
import struct
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.errors import DataError, EnvironmentFault
from utils.files import write_atomically, write_json

DATA, INDEX, META = "data.mdb", "index.npy", "meta.json"
UNFINISHED = "unfinished.json"  # lies there during a build and says how many records there will be
VERSION = 1
REBUILD = "build it again with scripts/generate_lmdb.py"

# Of each image: class, and length, size in pixels and zlib.crc32 of its encoded bytes.
RECORD = np.dtype([("label", "<i4"), ("bytes", "<u4"), ("width", "<u4"), ("height", "<u4"), ("crc32", "<u4")])

# LMDB's meta page on 64-bit machines (mdb.c, MDB_meta), after a page header of 16 bytes: magic, version, page size,
# records in the main table, last page used, transaction number.
META_PAGE = struct.Struct("<16xII16xI44x32xQ8xQQ")
MAGIC, LMDB_VERSION = 0xBEEFC0DE, 1
NEWER_HEAD = struct.Struct("<24xII")  # magic and version in LMDB 1.0, whose page header is longer
PAGE_SIZES = {2**power for power in range(8, 17)}


@dataclass(frozen=True)
class Meta:
    """What `meta.json` says of a split. `listing` is that of the folder it was built from (see `listing` in stores)."""

    version: int
    count: int
    classes: tuple[str, ...]
    listing: str
    fingerprint: str


def key(index: int) -> bytes:
    """The key under which `data.mdb` holds image number `index`."""
    return b"%08d" % index


def fingerprint(classes: tuple[str, ...], index: NDArray[np.void]) -> str:
    """One sha256 over the classes and the label, size and checksum of every image: equal for equal contents."""
    digest = hashlib.sha256(json.dumps(classes).encode())
    digest.update(np.ascontiguousarray(index, dtype=RECORD).data)
    return digest.hexdigest()


def write_index(folder: Path, index: NDArray[np.void]) -> None:
    """Write `index.npy`."""
    write_atomically(folder / INDEX, lambda file: np.lib.format.write_array(file, index, allow_pickle=False))


def read_index(folder: Path) -> NDArray[np.void]:
    """`index.npy`, mapped into memory, so that processes share it. DataError if it is missing or damaged."""
    path = folder / INDEX
    try:
        index = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}; {REBUILD}") from error
    if not isinstance(index, np.ndarray) or index.dtype != RECORD or index.ndim != 1:
        raise DataError(f"{path} does not hold records of {RECORD.names}; {REBUILD}")
    return index


def write_meta(folder: Path, meta: Meta) -> None:
    """Write `meta.json`, which says that the split is complete."""
    write_json(folder / META, asdict(meta))


def read_meta(folder: Path) -> Meta:
    """What `meta.json` says. DataError if it is damaged or of a version that this program does not read."""
    path = folder / META
    try:
        content = json.loads(path.read_bytes())
        version = content["version"]
        if version != VERSION:
            raise DataError(f"{path} is of format version {version}, this program reads {VERSION}; {REBUILD}")
        strings = [*content["classes"], content["listing"], content["fingerprint"]]
        if not all(isinstance(string, str) for string in strings):
            raise TypeError("a name is no string")
        return Meta(version, int(content["count"]), tuple(content["classes"]), *strings[-2:])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error}); {REBUILD}") from error


def count_records(path: Path) -> int:
    """The records in the `data.mdb` at `path`, told from its head without LMDB, which a truncated file would kill.

    DataError if the file is truncated or no LMDB, EnvironmentFault if it is of another version of LMDB.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        first = _meta_page(path, file.read(META_PAGE.size))
        page = first[2]
        file.seek(page)
        second = _meta_page(path, file.read(META_PAGE.size))
    _, _, _, records, last_page, _ = max(first, second, key=lambda meta: meta[-1])  # the newer transaction holds
    needed = (last_page + 1) * page
    if size < needed:
        raise DataError(f"{path} has {size} bytes, needs {needed}: a truncated copy; copy it again, or {REBUILD}")
    return records


def foreign(path: Path, why: str) -> DataError:
    """The error for another program's LMDB: its values are not even looked at."""
    return DataError(
        f"{path} is another program's LMDB ({why}); its values may be serialised objects, which can run code, and are "
        f"not read; {REBUILD} from the image folder"
    )


def _meta_page(path: Path, head: bytes) -> tuple[int, ...]:
    """The fields of META_PAGE that `head` holds."""
    if len(head) < META_PAGE.size:
        raise DataError(f"{path} ends within its first two pages: a truncated copy; copy it again, or {REBUILD}")
    fields = META_PAGE.unpack(head)
    magic, version = fields[:2] if fields[0] == MAGIC else NEWER_HEAD.unpack_from(head)
    if magic != MAGIC:
        raise DataError(f"{path} is no LMDB (it begins with {head[:24].hex()}); {REBUILD}")
    if version != LMDB_VERSION:
        raise EnvironmentFault(
            f"{path} is of LMDB data version {version}, this program reads {LMDB_VERSION} (LMDB 0.9); {REBUILD}"
        )
    if fields[2] not in PAGE_SIZES:
        raise DataError(f"{path} is damaged: its pages would have {fields[2]} bytes; copy it again, or {REBUILD}")
    return fields
