"""MNIST and FashionMNIST as published: idx files, gzipped or not.

An idx file (yann.lecun.com/exdb/mnist): two zero bytes, the type (8: unsigned bytes), the number of dimensions, each
dimension as four bytes, the highest first; then the content.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.origins.bare import BarePixels
from data.origins.naming import count_classes, number_classes
from data.origins.origin import Origin, numbered
from utils.errors import DataError

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "val": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
FOLDERS = ("", "raw", "MNIST/raw", "FashionMNIST/raw")  # torchvision's among them
UNSIGNED_BYTES = 8


def holds(folder: Path) -> bool:
    """Whether there are MNIST's four files in `folder`, or where torchvision puts them below it."""
    return _find(folder) is not None


def open_mnist(folder: Path) -> dict[str, Origin]:
    """Both splits of the MNIST at `folder`, grey, classes named by number. DataError naming the file that is wrong."""
    found = _find(folder)
    if found is None:
        raise DataError(f"{folder} does not hold {', '.join(sum(FILES.values(), ()))}, with or without .gz")
    splits = {}
    for split, (images, labels) in found.items():
        splits[split] = read_idx(images, 3), read_idx(labels, 1).astype(np.int32), images
        if len(splits[split][0]) != len(splits[split][1]):
            counts = f"{len(splits[split][0])} images, {labels} {len(splits[split][1])} labels"
            raise DataError(f"{images} holds {counts}; download both again")
    classes = number_classes(count_classes(labels for _, labels, _ in splits.values()))
    return {
        split: Origin(f"MNIST {path}", classes, labels, numbered(len(labels), b".png"), BarePixels(str(path), pixels))
        for split, (pixels, labels, path) in splits.items()
    }


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The bytes in an idx file, in its shape. DataError if it is damaged or of another kind."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}; download it again") from error
    head = 4 + 4 * dimensions
    if len(content) < head or content[:4] != bytes([0, 0, UNSIGNED_BYTES, dimensions]):
        raise DataError(f"{path} is no idx file of bytes in {dimensions} dimensions (it begins {content[:4].hex()})")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    if math.prod(shape) != len(content) - head:
        found = f"{len(content) - head} bytes, expected {' x '.join(map(str, shape))}"
        raise DataError(f"{path} holds {found}: a truncated copy; download it again")
    return np.frombuffer(content, dtype=np.uint8, offset=head).reshape(shape)


def _find(folder: Path) -> dict[str, tuple[Path, Path]] | None:
    for place in (folder / name for name in FOLDERS):
        pairs = {split: tuple(_either(place / name) for name in names) for split, names in FILES.items()}
        if all(path is not None for pair in pairs.values() for path in pair):
            return pairs
    return None


def _either(path: Path) -> Path | None:
    """The file at `path`, as it is or gzipped."""
    gzipped = path.with_name(f"{path.name}.gz")
    return path if path.is_file() else gzipped if gzipped.is_file() else None
