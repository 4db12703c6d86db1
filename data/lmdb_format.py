"""The files of one split of an LMDB data set: `data.mdb`, `index.npy` and, written last, `meta.json`.

`data.mdb` maps an image's number, as 8 decimal digits, to a Caffe Datum. `index.npy` holds a RECORD for each image, in
order. `meta.json` holds a `Meta`; without it the build is unfinished. Nothing is pickled.

The index knows where in `data.mdb` each image's bytes lie, so that reading takes one `pread` and no LMDB, whose engine
follows damaged pages out of the file and dies. Caffe's and DALI's readers open `data.mdb` as the LMDB that it is.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.lmdb_pages import REBUILD
from utils.errors import DataError
from utils.files import write_atomically, write_json

DATA, INDEX, META = "data.mdb", "index.npy", "meta.json"
UNFINISHED = "unfinished.json"  # lies there during a build and says how many records there will be
VERSION = 2

# Of each image: class; length, size in pixels and zlib.crc32 of its encoded bytes; where in data.mdb those begin.
CONTENT = [("label", "<i4"), ("bytes", "<u4"), ("width", "<u4"), ("height", "<u4"), ("crc32", "<u4")]
RECORD = np.dtype([*CONTENT, ("offset", "<u8")])

FINGERPRINTED = 1 << 16  # rows taken at once, so that memory stays flat


@dataclass(frozen=True)
class Meta:
    """What `meta.json` says of a split. `listing` is that of the folder it was built from (see `listing` in stores)."""

    version: int
    count: int
    data_bytes: int  # size of data.mdb
    classes: tuple[str, ...]
    listing: str
    fingerprint: str


def key(index: int) -> bytes:
    """The key under which `data.mdb` holds image number `index`."""
    return b"%08d" % index


def fingerprint(classes: tuple[str, ...], index: NDArray[np.void]) -> str:
    """One sha256 over the classes and the label, size and checksum of every image: equal for equal contents.

    Where the images lie in data.mdb is not part of it.
    """
    digest = hashlib.sha256(json.dumps(classes).encode())
    for first in range(0, len(index), FINGERPRINTED):
        rows = index[first : first + FINGERPRINTED]
        digest.update(np.stack([rows[name].view("<u4") for name, _ in CONTENT], axis=1).data)
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
        numbers = int(content["count"]), int(content["data_bytes"])
        return Meta(version, *numbers, tuple(content["classes"]), *strings[-2:])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error}); {REBUILD}") from error


def foreign(path: Path, why: str) -> DataError:
    """The error for another program's LMDB: its values are not even looked at."""
    return DataError(
        f"{path} is another program's LMDB ({why}); its values may be serialised objects, which can run code, and are "
        f"not read; {REBUILD} from the image folder"
    )
