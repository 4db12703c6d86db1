"""The files of one split of an LMDB data set: `data.mdb`, `index.npy` and, written last, `meta.json`.

`data.mdb` maps an image's number, as 8 decimal digits, to a Caffe Datum. `index.npy` holds a RECORD for each image, in
order. `meta.json` holds a `Meta`; without it the build is unfinished. Nothing is pickled. Damage anywhere is found: the
checksum of each image is in the index, that of the index in meta.json, and so is that of the rest of meta.json.

The index knows where in `data.mdb` each image's bytes lie, so that reading takes one `pread` and no LMDB, whose engine
follows damaged pages out of the file and dies. Caffe's and DALI's readers open `data.mdb` as the LMDB that it is.
"""

import hashlib
import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.lmdb_pages import REBUILD
from utils.errors import DataError
from utils.files import write_atomically, write_json

DATA, INDEX, META = "data.mdb", "index.npy", "meta.json"
UNFINISHED = "unfinished.json"  # lies there during a build and says how many records there will be
VERSION = 3

# Of each image: class; length, size in pixels and zlib.crc32 of its encoded bytes; where in data.mdb those begin.
CONTENT = [("label", "<i4"), ("bytes", "<u4"), ("width", "<u4"), ("height", "<u4"), ("crc32", "<u4")]
RECORD = np.dtype([*CONTENT, ("offset", "<u8")])

FINGERPRINTED = 1 << 16  # rows taken at once, so that memory stays flat


@dataclass(frozen=True)
class Meta:
    """What `meta.json` says of a split. `listing` is that of the folder it was built from (see `listing` in stores).

    `mean` and `std` of the channels, in [0, 1], are there once verify_lmdb has measured them.
    """

    version: int
    count: int
    data_bytes: int  # size of data.mdb
    classes: tuple[str, ...]
    listing: str
    fingerprint: str
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


class Described(NamedTuple):
    """The two small files of a split, of one build and undamaged."""

    meta: Meta
    index: NDArray[np.void]


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
    """`index.npy`. DataError if it is missing or damaged.

    It is read, 36 MB for ImageNet, not mapped: forked workers share it all the same, and when somebody writes over the
    file of a running training, labels do not change, nor does the kernel end it for a page that is gone.
    """
    path = folder / INDEX
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")  # of a length that was compared with the file's
    except Exception as error:  # numpy raises a dozen types on damaged headers
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}; {REBUILD}") from error
    if mapped.dtype != RECORD or mapped.ndim != 1:
        raise DataError(f"{path} does not hold records of {RECORD.names}; {REBUILD}")
    return np.array(mapped)


def write_meta(folder: Path, meta: Meta) -> None:
    """Write `meta.json`, which says that the split is complete, with the checksums of `index.npy` and of itself."""
    content = asdict(meta) | {"index_crc32": zlib.crc32(read_index(folder))}
    write_json(folder / META, content | {"crc32": _checksum(content)})


def describe(folder: Path) -> Described:
    """`meta.json` and `index.npy`. DataError if one is damaged, of another build or of another version."""
    content = _read_meta(folder / META)
    index_checksum = content.pop("index_crc32")
    meta = Meta(**content)
    index = read_index(folder)
    if len(index) != meta.count:
        counts = f"meta.json {meta.count}, index.npy {len(index)}"
        raise DataError(f"{folder} is of several builds: {counts} records; {REBUILD}")
    if zlib.crc32(index) != index_checksum:
        raise DataError(f"{folder / INDEX} is damaged: its checksum is not that in {META}; {REBUILD}")
    return Described(meta, index)


def _read_meta(path: Path) -> dict[str, object]:
    """What `meta.json` says, under the names of Meta, and the checksum of the index."""
    try:
        content = json.loads(path.read_bytes())
        if content["version"] != VERSION:
            found = content["version"]
            raise DataError(f"{path} is of format version {found}, this program reads {VERSION}; {REBUILD}")
        if content.pop("crc32") != _checksum(content):
            raise DataError(f"{path} is damaged: its checksum is not the one in it; copy it again, or {REBUILD}")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error}); {REBUILD}") from error
    # From here on it is what write_meta wrote, but for JSON's lists.
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}


def _checksum(content: dict[str, object]) -> int:
    """crc32 of the words of meta.json, in whatever order and layout they are written."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def foreign(path: Path, why: str) -> DataError:
    """The error for another program's LMDB: its values are not even looked at."""
    return DataError(
        f"{path} is another program's LMDB ({why}); its values may be serialised objects, which can run code, and are "
        f"not read; {REBUILD} from the image folder"
    )
