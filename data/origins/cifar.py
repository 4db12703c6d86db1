"""CIFAR-10 and CIFAR-100 as their authors publish them: pickles for Python, or the binary version.

Images are named by their place in the published order, so both versions make the same LMDB. The pickles are read by an
unpickler that knows numpy's arrays and nothing else: no code in them can run.
"""

import os
import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.origins.bare import BarePixels
from data.origins.origin import Origin, numbered
from utils.errors import DataError

SIDE = 32
PLANES = 3 * SIDE * SIDE  # bytes of an image: red, green, blue, each row by row


class Version(NamedTuple):
    """Files of one publication: of each split, of the class names; the label's key, and bytes before the pixels."""

    folder: str  # in which they lie when the archive was unpacked
    train: tuple[str, ...]
    val: tuple[str, ...]
    names: str
    key: str  # of the labels in a pickle, or of the names in that of the names
    names_key: str
    labels: int = 0  # bytes of labels before each binary image, of which the last counts; 0 of pickles


FIVE = tuple(f"data_batch_{number}" for number in range(1, 6))
VERSIONS = (
    Version("cifar-10-batches-py", FIVE, ("test_batch",), "batches.meta", "labels", "label_names"),
    Version("cifar-100-python", ("train",), ("test",), "meta", "fine_labels", "fine_label_names"),
    Version(
        "cifar-10-batches-bin",
        tuple(f"{name}.bin" for name in FIVE),
        ("test_batch.bin",),
        "batches.meta.txt",
        "",
        "",
        1,
    ),
    Version("cifar-100-binary", ("train.bin",), ("test.bin",), "fine_label_names.txt", "", "", 2),
)


def holds(folder: Path) -> bool:
    """Whether there are CIFAR's files in `folder`, or in the folder in it that the archive makes."""
    return _find(folder) is not None


def open_cifar(folder: Path) -> dict[str, Origin]:
    """Both splits of the CIFAR at `folder`. DataError, naming the file, if one is missing or not what it should be."""
    found = _find(folder)
    if found is None:
        wanted = "; or ".join(", ".join([*version.train, *version.val, version.names]) for version in VERSIONS)
        raise DataError(f"{folder} does not hold CIFAR's files: {wanted}")
    place, version = found
    classes = _read_names(place / version.names, version)
    origins = {}
    for split, files in (("train", version.train), ("val", version.val)):
        batches = [_read_batch(place / name, version, len(classes)) for name in files]
        pixels = np.concatenate([batch[0] for batch in batches]).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        labels = np.concatenate([batch[1] for batch in batches])
        title = f"CIFAR-{len(classes)} {place}, {', '.join(files)}"
        medium = BarePixels(title, np.ascontiguousarray(pixels))
        origins[split] = Origin(title, classes, labels, numbered(len(labels), b".png"), medium)
    return origins


def _find(folder: Path) -> tuple[Path, Version] | None:
    for version in VERSIONS:
        for place in (folder, folder / version.folder):
            if all((place / name).is_file() for name in (*version.train, *version.val, version.names)):
                return place, version
    return None


def _read_names(path: Path, version: Version) -> tuple[str, ...]:
    if version.labels:
        return tuple(path.read_text().split())
    names = unpickle(path).get(version.names_key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path} holds no list {version.names_key} of class names; download CIFAR again")
    return tuple(names)


def _read_batch(path: Path, version: Version, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """The pixels (n, PLANES) and labels (n,) of one file."""
    pixels, labels = _read_binary(path, version.labels) if version.labels else _read_pickle(path, version.key)
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"{path} has no images or labels other than 0 to {classes - 1}; download CIFAR again")
    return pixels, labels


def _read_binary(path: Path, labels: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    if os.path.getsize(path) % (labels + PLANES):
        found = f"{os.path.getsize(path)} bytes, no multiple of {labels + PLANES}"
        raise DataError(f"{path} has {found}: a truncated copy; download CIFAR again")
    rows = np.fromfile(path, dtype=np.uint8).reshape(-1, labels + PLANES)
    return rows[:, labels:], rows[:, labels - 1].astype(np.int32)


def _read_pickle(path: Path, key: str) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    content = unpickle(path)
    pixels, labels = content.get("data"), content.get(key)
    good = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.ndim == 2
    numbers = isinstance(labels, list) and all(type(label) is int for label in labels)
    if not good or not numbers or pixels.shape != (len(labels), PLANES):
        raise DataError(f"{path} does not hold data, (n, {PLANES}) bytes, and n {key}; download CIFAR again")
    return pixels, np.array(labels, dtype=np.int32)


def unpickle(path: Path) -> dict[str, object]:
    """The dictionary in a pickle of CIFAR's. DataError if it is damaged or asks for anything but numpy's arrays."""
    try:
        with open(path, "rb") as file:
            content = _Arrays(file, encoding="latin1").load()  # Python 2 wrote them, and its strings were bytes
    except Exception as error:  # pickle raises a dozen types on damaged bytes
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error}); download CIFAR again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no dictionary; download CIFAR again")
    return content


def _to_bytes(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes into a pickle of Python 2's form."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes as {encoding}")
    return text.encode("latin1")


class _Arrays(pickle.Unpickler):
    """Reads numbers, strings, lists, dictionaries and numpy's arrays; any other class or function is refused."""

    RECONSTRUCT = np.empty(0).__reduce__()[0]
    KNOWN = {  # noqa: RUF012 (a table)
        ("numpy.core.multiarray", "_reconstruct"): RECONSTRUCT,
        ("numpy._core.multiarray", "_reconstruct"): RECONSTRUCT,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _to_bytes,
    }

    def find_class(self, module: str, name: str) -> object:
        """One of KNOWN. UnpicklingError for anything else, which is not even imported."""
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which CIFAR's files do not")
        return self.KNOWN[module, name]
