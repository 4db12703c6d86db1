"""The kinds of data sets that an LMDB can be built from, and which of them a folder is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.lmdb_format import DATA, INDEX, META, UNFINISHED
from data.origins import caffe, cifar, ilsvrc, mnist
from data.origins.listed import open_lists
from data.origins.naming import check_count, count_classes, read_class_names
from data.origins.origin import Origin, origin_of
from data.stores import SPLITS, open_store
from utils.errors import DataError, UsageError


class Kind(NamedTuple):
    """A kind of data set: how it is told, how both its splits are opened, and what an error calls it."""

    holds: Callable[[Path], bool]
    open: Callable[[Path], dict[str, Origin]]
    words: str
    named: bool  # whether its classes have names, which --class-names would be in conflict with


@dataclass(frozen=True)
class Choice:
    """What the user says of the data set at `folder` beyond that."""

    folder: Path
    kind: str = "auto"
    train_list: Path | None = None
    val_list: Path | None = None
    class_names: Path | None = None
    subset: Path | None = None


def open_origins(choice: Choice) -> dict[str, Origin]:
    """Both splits of the data set that `choice` means. UsageError or DataError in one line."""
    if not choice.folder.is_dir():
        raise UsageError(f"no data set at {choice.folder}; --data-dir takes a folder")
    try:
        origins = _open(choice)
    except OSError as error:
        raise DataError(f"{error.filename or choice.folder} cannot be read: {error.strerror or error}") from error
    return origins if choice.subset is None else keep_listed(origins, choice.subset)


def _open(choice: Choice) -> dict[str, Origin]:
    if choice.train_list is not None or choice.val_list is not None:
        if choice.train_list is None or choice.val_list is None or choice.kind != "auto":
            raise UsageError("--train-list and --val-list go together, and without --kind")
        lists = {"train": choice.train_list, "val": choice.val_list}
        return open_lists(choice.folder, lists, choice.class_names)
    kind = KINDS[recognise(choice.folder) if choice.kind == "auto" else choice.kind]
    if choice.class_names is None:
        return kind.open(choice.folder)
    if kind.named:
        raise UsageError(f"--class-names {choice.class_names}: the classes of {kind.words} have names of their own")
    return _rename(kind.open(choice.folder), choice.class_names)


def recognise(folder: Path) -> str:
    """The one kind of which there is a data set in `folder`. UsageError if there is none or several."""
    found = [name for name, kind in KINDS.items() if kind.holds(folder)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{folder} holds several data sets; say which by --kind {' or --kind '.join(found)}")
    kinds = "; ".join(kind.words for kind in KINDS.values())
    names = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
    raise UsageError(f"{folder} has no {'/ or '.join(sum(SPLITS.values(), ()))}/ but {names}; known are {kinds}")


def keep_listed(origins: dict[str, Origin], path: Path) -> dict[str, Origin]:
    """Of each split the images whose names "class/file" are in the file at `path`, one a line.

    A split that has none of them stays whole, so that a list of training images leaves validation alone. Classes stay,
    so that labels mean what they meant. UsageError if an image is in no split.
    """
    try:
        with open(path, "rb") as file:
            wanted = np.unique(np.array([line.strip() for line in file if line.strip()], dtype=np.bytes_))
    except OSError as error:
        raise UsageError(f"--subset {path} cannot be read: {error.strerror}") from error
    known = np.zeros(len(wanted), dtype=np.bool_)
    kept = {}
    for split, origin in origins.items():
        names = origin.names()
        known |= np.isin(wanted, names)
        mask = np.isin(names, wanted)
        kept[split] = origin.keep(mask) if mask.any() else origin
    if not known.all() or not len(known):
        first = repr(wanted[~known][0].decode(errors="replace")) if len(known) else "nothing"
        raise UsageError(f"--subset {path} names {first}, which is no image's; expected lines such as class/file.jpg")
    return kept


def _rename(origins: dict[str, Origin], path: Path) -> dict[str, Origin]:
    count = count_classes(origin.labels for origin in origins.values())
    names = check_count(read_class_names(path), count, path)
    for origin in origins.values():
        origin.classes = names
    return origins


def _split_folders(folder: Path) -> list[set[str]]:
    """What lies in each folder that has a split's name."""
    names = [name for split in SPLITS.values() for name in split]
    return [{path.name for path in (folder / name).iterdir()} for name in names if (folder / name).is_dir()]


def _holds_folders(folder: Path) -> bool:
    return any(DATA not in held and not held & {INDEX, META, UNFINISHED} for held in _split_folders(folder))


def _holds_ours(folder: Path) -> bool:
    return any(held & {INDEX, META, UNFINISHED} for held in _split_folders(folder))


def _open_stores(folder: Path) -> dict[str, Origin]:
    return {split: origin_of(open_store(folder, split)) for split in ("train", "val")}


KINDS = {
    "folder": Kind(_holds_folders, _open_stores, "train/ and val/ with a folder of images for each class", True),
    "lmdb": Kind(_holds_ours, _open_stores, "an LMDB of this program's", True),
    "tar": Kind(ilsvrc.holds, ilsvrc.open_ilsvrc, "ILSVRC2012's tar files", True),
    "cifar": Kind(cifar.holds, cifar.open_cifar, "CIFAR-10's or CIFAR-100's files", True),
    "mnist": Kind(mnist.holds, mnist.open_mnist, "MNIST's or FashionMNIST's idx files", False),
    "caffe": Kind(caffe.holds, caffe.open_caffe, "Caffe's LMDBs, train and val", False),
}
