"""ImageNet as published for ILSVRC2012: three tar files, of which nothing is unpacked.

The training tar holds a tar for each class, named by its WordNet number; the validation tar holds 50,000 images. Their
labels are in the devkit, as numbers of the devkit's own, which its meta.mat assigns to WordNet numbers: in the order of
the images' names, as torchvision's parser has it. Images are read where they lie in the tars, by offset and length.
"""

import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.origins.origin import Origin, read_extent
from data.stores import EXTENSIONS
from utils.errors import DataError, EnvironmentFault

TRAIN, VAL, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
TRUTH, SYNSETS = "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"


class Member(NamedTuple):
    """A file in a tar: its name, where its content begins, and its length."""

    name: bytes
    offset: int
    length: int


class TarMembers:
    """Files in a tar as a medium: `offsets`, `lengths` and `names` (n,)."""

    def __init__(
        self, path: Path, offsets: NDArray[np.int64], lengths: NDArray[np.int64], names: NDArray[np.bytes_]
    ) -> None:
        self._path, self._offsets, self._lengths, self._names = path, offsets, lengths, names

    def read(self, row: int) -> bytes:
        """The bytes of one file."""
        return read_extent(self._path, int(self._offsets[row]), int(self._lengths[row]), self.name(row))

    def name(self, row: int) -> str:
        """The tar and the file's name in it."""
        return f"{self._path}:{self._names[row].decode(errors='replace')}"

    def sizes(self) -> NDArray[np.int64]:
        """The lengths of the files."""
        return self._lengths


def holds(folder: Path) -> bool:
    """Whether one of ILSVRC2012's tar files of images is in `folder`."""
    return any((folder / name).is_file() for name in (TRAIN, VAL))


def open_ilsvrc(folder: Path) -> dict[str, Origin]:
    """Both splits of the ImageNet whose three files are in `folder`. DataError if one is missing or damaged."""
    missing = [name for name in (TRAIN, VAL, DEVKIT) if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder} lacks {' and '.join(missing)}; put it beside the others")
    wnids = _read_truth(folder / DEVKIT)  # first: it is small, and the others take a minute
    return {"train": _open_train(folder / TRAIN), "val": _open_val(folder / VAL, wnids)}


def _open_train(path: Path) -> Origin:
    classes, parts = [], []
    with open(path, "rb") as file:
        for inner in members(file, path):
            if not inner.name.endswith(b".tar"):
                raise DataError(f"{path} holds {inner.name!r}, expected a tar for each class; download it again")
            file.seek(inner.offset)
            images = [member for member in members(file, path, inner) if _is_image(member)]
            if not images:
                raise DataError(f"{path}: {inner.name.decode(errors='replace')} holds no images; download it again")
            classes.append(inner.name.removesuffix(b".tar").decode())
            parts.append(_table(images))
    if not parts:
        raise DataError(f"{path} holds no classes; download it again")
    ranks = np.argsort(np.argsort(classes))
    labels = np.repeat(ranks, [len(part[0]) for part in parts]).astype(np.int32)
    return _origin(path, tuple(sorted(classes)), labels, tuple(map(np.concatenate, zip(*parts, strict=True))))


def _open_val(path: Path, wnids: list[str]) -> Origin:
    with open(path, "rb") as file:
        names, offsets, lengths = _table([member for member in members(file, path) if _is_image(member)])
    if len(names) != len(wnids):
        raise DataError(f"{path} holds {len(names)} images, {DEVKIT} {len(wnids)} labels; download both again")
    order = np.argsort(names)  # that of the labels
    classes, labels = np.unique(wnids, return_inverse=True)
    table = (names[order], offsets[order], lengths[order])
    return _origin(path, tuple(classes.tolist()), labels.astype(np.int32), table)


def _origin(
    path: Path,
    classes: tuple[str, ...],
    labels: NDArray[np.int32],
    table: tuple[NDArray[np.bytes_], NDArray[np.int64], NDArray[np.int64]],
) -> Origin:
    names, offsets, lengths = table
    return Origin(f"tar {path}", classes, labels, names, TarMembers(path, offsets, lengths, names))


def members(file: BinaryIO, path: Path, within: Member | None = None) -> Iterator[Member]:
    """The plain files in the tar that begins where `file` stands, and ends with the member `within` if it is given.

    DataError if the tar is damaged or ends too early. The caller may move `file` between two of them.
    """
    name = path if within is None else f"{path}:{within.name.decode(errors='replace')}"
    end = path.stat().st_size if within is None else within.offset + within.length
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None and member.offset < end:
                tar.members.clear()  # or a million of them would stay in memory
                if member.offset_data + member.size > end:
                    raise DataError(f"{name} is truncated at {member.name}; copy or download it again")
                if member.isreg():
                    bare = member.name.removeprefix("./").encode(errors="surrogateescape")
                    yield Member(bare, member.offset_data, member.size)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{name} cannot be read as a tar: {error}; copy or download it again") from error


def _is_image(member: Member) -> bool:
    hidden = member.name.rpartition(b"/")[2].startswith(b".")
    return not hidden and member.name.lower().endswith(EXTENSIONS)


def _table(images: list[Member]) -> tuple[NDArray[np.bytes_], NDArray[np.int64], NDArray[np.int64]]:
    """Names, offsets and lengths as arrays."""
    names = np.array([image.name for image in images], dtype=np.bytes_)
    places = np.array([image[1:] for image in images], dtype=np.int64).reshape(-1, 2)
    return names, places[:, 0], places[:, 1]


def _read_truth(path: Path) -> list[str]:
    """The WordNet number of each validation image, in the order of their names."""
    try:
        with tarfile.open(path, "r:gz") as tar:
            found = {wanted: _content(tar, wanted) for wanted in (TRUTH, SYNSETS)}
        numbers = [int(line) for line in found[TRUTH].split()]
        wnids = _read_synsets(found[SYNSETS])
        return [wnids[number] for number in numbers]
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error}); download it again") from error


def _content(tar: tarfile.TarFile, ending: str) -> bytes:
    """The content of the one file whose name has this ending."""
    for member in tar:
        if member.isreg() and member.name.endswith(ending):
            return tar.extractfile(member).read()
    raise KeyError(f"no {ending} in it")


def _read_synsets(content: bytes) -> dict[int, str]:
    """The WordNet number of each class of the challenge: those synsets of a meta.mat that have no children."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise EnvironmentFault(f"the devkit's meta.mat is read with scipy: pip install scipy ({error})") from error
    synsets = loadmat(io.BytesIO(content), squeeze_me=True)["synsets"]
    return {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets if int(synset["num_children"]) == 0}
