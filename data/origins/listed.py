"""Images named by a list: a line `path label` for each, the PWSConv ancestor's form.

A path is taken from the data folder, or, where the first line's image is not there, from the folder of the split in it.
The last blank of a line divides it; labels count from 0 and are kept as they are.

Classes are named by the file given with --class-names, otherwise by folders. Folders that all paths of a list begin
with are left away, and the next one names the class, if a list's images of one label lie all in one such folder, and
those of another label in another; the path below it is the file's name. A list that does not name its classes so takes
the names from the other list. Where neither names a label, or they name it differently, every class is named by its
number, and a file's name is its whole path. So a list of a folder's images, labels being the ranks of the class
folders, makes the LMDB that the folder makes.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.origins.naming import check_count, count_classes, number_classes, read_class_names
from data.origins.origin import Origin, file_sizes
from data.stores import SPLITS
from utils.errors import DataError, UsageError

GREATEST = (1 << 31) - 1


class Files:
    """Files below a folder as a medium: `paths` (n,)."""

    def __init__(self, root: Path, paths: NDArray[np.bytes_]) -> None:
        self._root, self._paths = root, paths

    def read(self, row: int) -> bytes:
        """The bytes of one file."""
        try:
            with open(self.name(row), "rb") as file:
                return file.read()
        except OSError as error:
            raise DataError(f"{self.name(row)} cannot be read: {error.strerror}") from error

    def name(self, row: int) -> str:
        """The path of one file."""
        return os.path.join(self._root, os.fsdecode(self._paths[row]))

    def sizes(self) -> NDArray[np.int64]:
        """The sizes of the files."""
        return file_sizes(self.name, len(self._paths))


class ImageList(NamedTuple):
    """What a list says: paths (n,) and labels (n,); `shared` bytes of each path are folders that all have."""

    path: Path
    paths: NDArray[np.bytes_]
    labels: NDArray[np.int32]
    shared: int


def open_lists(folder: Path, lists: dict[str, Path], class_names: Path | None) -> dict[str, Origin]:
    """The splits whose images `lists` name, which lie in `folder`. UsageError, naming the line, if a list is wrong."""
    read = {split: read_list(path) for split, path in lists.items()}
    count = count_classes(images.labels for images in read.values())
    folders = {split: _class_folders(images) for split, images in read.items()}
    if class_names is not None:
        classes = check_count(read_class_names(class_names), count, class_names)
    else:
        classes = _merge(list(folders.values()), count)
    origins = {}
    for split, images in read.items():
        inside = folders[split]
        named = inside is not None and all(classes[label] == name for label, name in inside.items())
        files = _files(images, named)
        medium = Files(_root(folder, split, images), images.paths)
        origins[split] = Origin(f"list {images.path}", classes, images.labels, files, medium)
    return origins


def read_list(path: Path) -> ImageList:
    """The list at `path`, read twice so that no million strings are in memory."""
    count = longest = 0
    for name, _ in _lines(path):
        count, longest = count + 1, max(longest, len(name))
    if count == 0:
        raise UsageError(f"{path} names no images; expected lines of a path and a label")
    paths, labels = np.empty(count, dtype=f"S{longest}"), np.empty(count, dtype=np.int32)
    for row, (name, label) in enumerate(_lines(path)):
        paths[row], labels[row] = name, label
    return ImageList(path, paths, labels, _shared(paths))


def _lines(path: Path) -> Iterator[tuple[bytes, int]]:
    """Path and label of each line that is not blank."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                words = line.strip().rsplit(None, 1)
                if not words:
                    continue
                if len(words) < 2 or not words[1].isdigit() or int(words[1]) > GREATEST:
                    raise UsageError(f"{path}, line {number}: {line[:80]!r} is not a path and a label from 0 on")
                yield words[0].removeprefix(b"./"), int(words[1])
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _shared(paths: NDArray[np.bytes_]) -> int:
    """How many bytes of every path are folders that all have, of which each keeps one folder at least."""
    first = paths[0].split(b"/")[:-2]
    while first:
        prefix = b"/".join(first) + b"/"
        if np.strings.startswith(paths, prefix).all() and (np.strings.count(paths, b"/") > len(first)).all():
            return len(prefix)
        first.pop()
    return 0


def _class_folders(images: ImageList) -> dict[int, str] | None:
    """The folder that names each label's class, or None if the folders do not name them."""
    labels: dict[bytes, int] = {}
    for path, label in zip(images.paths, images.labels.tolist(), strict=True):
        folder, slash, _ = path[images.shared :].partition(b"/")
        if not slash or labels.setdefault(folder, label) != label:
            return None
    if len(set(labels.values())) < len(labels):
        return None
    return {label: os.fsdecode(folder) for folder, label in labels.items()}


def _merge(folders: list[dict[int, str] | None], count: int) -> tuple[str, ...]:
    """The names of all classes: those in which all lists that name any agree, or else their numbers."""
    names: dict[int, str] = {}
    for named in folders:
        for label, name in (named or {}).items():
            if names.setdefault(label, name) != name:
                return number_classes(count)
    if len(names) < count or len(set(names.values())) < count:
        return number_classes(count)
    return tuple(names[label] for label in range(count))


def _files(images: ImageList, named: bool) -> NDArray[np.bytes_]:
    """The files' names: below the class folders where these are `named`, whole paths otherwise."""
    if not named:
        return images.paths
    letters = images.paths.view("S1").reshape(len(images.paths), -1)[:, images.shared :]
    below = np.ascontiguousarray(letters).view(f"S{letters.shape[1]}").ravel()
    return np.char.partition(below, b"/")[:, 2]


def _root(folder: Path, split: str, images: ImageList) -> Path:
    """The folder from which a list's paths lead."""
    first = os.fsdecode(images.paths[0])
    candidates = [folder, *(folder / name for name in SPLITS[split])]
    return next((root for root in candidates if (root / first).exists()), folder)
