"""Where images come from: a store gives the encoded bytes and the label of image number i.

Stores number images by sorted (class, file), so a folder and the LMDB built from it have the same order.
"""

import hashlib
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from data.lmdb_format import DATA, INDEX, META, UNFINISHED, foreign
from data.lmdb_pages import REBUILD
from data.lmdb_store import Extents, LmdbStore
from utils.errors import DataError, UsageError

SPLITS = {"train": ("train",), "val": ("val", "test")}  # folders in which a split may lie, the best first
EXTENSIONS = (b".jpg", b".jpeg", b".png", b".ppm", b".bmp", b".pgm", b".tif", b".tiff", b".webp")  # torchvision's
LISTED = 5  # names that an error lists before it says how many more there are


class Store(Protocol):
    """What every store offers."""

    classes: tuple[str, ...]

    @property
    def labels(self) -> NDArray[np.int32]:
        """The class of each image, a number into `classes`: (n,)."""

    def __len__(self) -> int:
        """How many images there are."""

    def read(self, index: int) -> bytes:
        """The encoded bytes of one image. DataError if they cannot be had."""

    def extents(self, indices: NDArray[np.int64]) -> Extents | None:
        """Where the bytes of the images `indices` (n,) lie, or None if they are not all in one file."""

    def name(self, index: int) -> str:
        """How an error names an image: its path, or its LMDB record."""

    def identity(self) -> dict[str, str]:
        """Checksums that tell data sets apart: `listing`, and `content` where it is known."""

    def describe(self) -> str:
        """One line for the log."""


class FolderStore:
    """Images as files, ImageNet's layout: a folder for each class.

    Files in deeper folders belong to the class of the outermost. Hidden files and folders and files without an image's
    extension are ignored, and counted in `ignored`. A class without images is a DataError.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ignored = 0
        names = []
        with os.scandir(os.fsencode(folder)) as entries:
            visible = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(b".")]
        labels = sorted(visible)
        self.classes = tuple(os.fsdecode(label) for label in labels)
        for label in labels:
            files = sorted(self._images(os.path.join(os.fsencode(folder), label)))
            if not files:
                raise DataError(f"{folder / os.fsdecode(label)} holds no images; remove the folder or fill it")
            names.append(np.array(files, dtype=np.bytes_))
        # Bytes in one array: a list of 1.28 million strings grows each worker by 269 MB as it counts references.
        self.files = np.concatenate(names)  # (n,) paths below the class folders
        self.labels = np.repeat(np.arange(len(names), dtype=np.int32), [len(files) for files in names])

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> bytes:
        """The bytes of one file."""
        try:
            with open(self.name(index), "rb") as file:
                return file.read()
        except OSError as error:
            raise DataError(f"{self.name(index)} cannot be read: {error.strerror}") from error

    def extents(self, indices: NDArray[np.int64]) -> None:
        """There are none: every image is a file of its own."""

    def name(self, index: int) -> str:
        """The path of one file."""
        return os.path.join(self.folder, self.classes[self.labels[index]], os.fsdecode(self.files[index]))

    def identity(self) -> dict[str, str]:
        """`listing`: see there. The contents are not known without reading every file."""
        return {"listing": self.listing}

    def describe(self) -> str:
        """One line for the log."""
        ignored = f", {self.ignored} other files ignored" if self.ignored else ""
        return f"folder {self.folder}: {len(self)} images of {len(self.classes)} classes{ignored}"

    @cached_property
    def listing(self) -> str:
        """The sha256 of the names "class/file" of all images in order, each ended by a newline."""
        digest = hashlib.sha256()
        classes = [os.fsencode(label) for label in self.classes]
        for label, name in zip(self.labels.tolist(), self.files, strict=True):
            digest.update(b"%b/%b\n" % (classes[label], name))
        return digest.hexdigest()

    def _images(self, folder: bytes, prefix: bytes = b"") -> Iterator[bytes]:
        """The images in `folder` and below, as paths relative to their class."""
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(b"."):
                    self.ignored += 1
                elif entry.is_dir():
                    yield from self._images(entry.path, os.path.join(prefix, entry.name))
                elif entry.name.lower().endswith(EXTENSIONS):
                    yield os.path.join(prefix, entry.name)
                else:
                    self.ignored += 1


def open_store(data_dir: Path, split: Literal["train", "val"]) -> Store:
    """The store of one split of the data set at `data_dir`, a folder or an LMDB, whichever it is.

    UsageError if there is nothing of the kind, DataError if it is there but damaged or unfinished. Creates nothing.
    """
    folder = _split_folder(data_dir, split)
    try:
        names = set(os.listdir(folder))
        if DATA in names:
            return LmdbStore(folder)
        if names & {INDEX, META, UNFINISHED}:
            raise DataError(f"{folder} is an LMDB without {DATA}: half a build or half a copy; {REBUILD}")
        if not any(entry.is_dir() and not entry.name.startswith(".") for entry in os.scandir(folder)):
            found = _some(sorted(names))
            raise UsageError(f"{folder} is neither an LMDB (no {DATA}) nor a folder of class folders; it holds {found}")
        return FolderStore(folder)
    except OSError as error:
        raise DataError(f"{error.filename or folder} cannot be read: {error.strerror or error}") from error


def check_classes(train: Store, val: Store) -> None:
    """UsageError, listing the differences, unless both splits have the same classes: labels would mean other things."""
    if train.classes != val.classes:
        missing = sorted(set(train.classes) - set(val.classes))
        extra = sorted(set(val.classes) - set(train.classes))
        raise UsageError(
            f"validation has {len(val.classes)} classes, training {len(train.classes)}: missing {_some(missing)}, "
            f"extra {_some(extra)}; both must have the same class folders"
        )


def _split_folder(data_dir: Path, split: Literal["train", "val"]) -> Path:
    """The folder of a split. UsageError, saying what was found instead, if there is none."""
    if not data_dir.exists():
        raise UsageError(f"no data set at {data_dir}; --data-dir takes a folder or LMDB with train/ and val/")
    for name in SPLITS[split]:
        if (data_dir / name).is_dir():
            return data_dir / name
        if (data_dir / f"{name}.lmdb").exists():
            raise foreign(data_dir / f"{name}.lmdb", "ours is a folder of that name without .lmdb")
    found = _some(sorted(os.listdir(data_dir))) if data_dir.is_dir() else "a file"
    raise UsageError(f"{data_dir} has no {'/ or '.join(SPLITS[split])}/ but {found}; give the folder that holds it")


def _some(names: list[str]) -> str:
    """The first few of `names`, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more if names else "nothing"
