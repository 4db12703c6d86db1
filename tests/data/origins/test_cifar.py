"""CIFAR's files, written here in the form in which they are published."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data.origins.cifar import holds, open_cifar
from data.origins.origin import Origin
from utils.errors import DataError

NAMES_10, NAMES_100 = list("abcdefghij"), [f"class{number:02d}" for number in range(100)]
Batches = dict[str, tuple[NDArray[np.uint8], list[int]]]


def draw(files: list[str], classes: int, seed: int = 0) -> Batches:
    """Pixels (n, 3, 32, 32) and labels of each file."""
    rng = np.random.default_rng(seed)
    counts = {name: 12 + number for number, name in enumerate(files)}
    return {
        name: (rng.integers(256, size=(n, 3, 32, 32), dtype=np.uint8), rng.integers(classes, size=n).tolist())
        for name, n in counts.items()
    }


TEN, HUNDRED = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"], ["train", "test"]


def write_pickles(folder: Path, batches: Batches, names: dict[str, object], meta: str, key: str) -> Path:
    folder.mkdir(parents=True)
    for name, (pixels, labels) in batches.items():
        content = {"batch_label": "x", key: labels, "data": pixels.reshape(len(labels), -1), "filenames": ["a"]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / meta).write_bytes(pickle.dumps(names, protocol=2))
    return folder


def write_binaries(folder: Path, batches: Batches, names: list[str], meta: str, coarse: bool) -> Path:
    folder.mkdir(parents=True)
    for name, (pixels, labels) in batches.items():
        rows = [
            bytes([7] * coarse + [label]) + picture.tobytes() for label, picture in zip(labels, pixels, strict=True)
        ]
        (folder / f"{name}.bin").write_bytes(b"".join(rows))
    (folder / meta).write_text("\n".join(names) + "\n\n")
    return folder


def ten_pickled(folder: Path, batches: Batches) -> Path:
    return write_pickles(folder, batches, {"label_names": NAMES_10, "num_vis": 3072}, "batches.meta", "labels")


def hundred_pickled(folder: Path, batches: Batches) -> Path:
    names = {"fine_label_names": NAMES_100, "coarse_label_names": ["x"]}
    return write_pickles(folder, batches, names, "meta", "fine_labels")


def ten_binary(folder: Path, batches: Batches) -> Path:
    return write_binaries(folder, batches, NAMES_10, "batches.meta.txt", False)


def hundred_binary(folder: Path, batches: Batches) -> Path:
    return write_binaries(folder, batches, NAMES_100, "fine_label_names.txt", True)


FORMS = {
    "cifar-10-batches-py": (ten_pickled, TEN, NAMES_10),
    "cifar-10-batches-bin": (ten_binary, TEN, NAMES_10),
    "cifar-100-python": (hundred_pickled, HUNDRED, NAMES_100),
    "cifar-100-binary": (hundred_binary, HUNDRED, NAMES_100),
}


def check(origin: Origin, batches: list[tuple[NDArray[np.uint8], list[int]]], names: list[str]) -> None:
    """The origin holds these pixels, by class and then by place."""
    pixels, labels = np.concatenate([batch[0] for batch in batches]), [label for batch in batches for label in batch[1]]
    order = sorted(range(len(labels)), key=lambda place: (labels[place], place))
    assert list(origin.classes) == names and origin.labels.tolist() == sorted(labels)
    for index, place in enumerate(order):
        picture = Image.open(io.BytesIO(origin.read(index)))
        assert picture.format == "PNG" and picture.mode == "RGB"
        assert np.array_equal(np.asarray(picture), np.moveaxis(pixels[place], 0, 2))
        assert len(origin.read(index)) <= origin.sizes()[index]


@pytest.mark.parametrize("nested", [True, False], ids=["where the archive lies", "in the folder it makes"])
@pytest.mark.parametrize("form", FORMS)
def test_published_files_come_out_pixel_by_pixel(form: str, nested: bool, tmp_path: Path):
    write, files, names = FORMS[form]
    batches = draw(files, len(names))
    folder = write(tmp_path / form, batches)
    assert holds(tmp_path) and not holds(tmp_path.parent)
    origins = open_cifar(tmp_path if nested else folder)
    check(origins["train"], [batches[name] for name in files[:-1]], names)
    check(origins["val"], [batches[files[-1]]], names)


def test_pickles_and_binaries_hold_the_same(tmp_path: Path, held: Callable):
    batches = draw(TEN, 10)
    pickled, binary = ten_pickled(tmp_path / "p", batches), ten_binary(tmp_path / "b", batches)
    for split in ("train", "val"):
        ours, theirs = open_cifar(pickled)[split], open_cifar(binary)[split]
        assert held(ours) == held(theirs) and ours.listing() == theirs.listing()


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pickle that runs code": (
        lambda folder: (folder / "test_batch").write_bytes(pickle.dumps({"data": Canary(folder / "canary")})),
        "asks for .*open",
    ),
    "half a pickle": (lambda folder: (folder / "test_batch").write_bytes(b"\x80\x02}q"), "cannot be read"),
    "no dictionary": (lambda folder: (folder / "test_batch").write_bytes(pickle.dumps([1])), "no dictionary"),
    "no data": (
        lambda folder: (folder / "test_batch").write_bytes(pickle.dumps({"labels": [1]})),
        "does not hold data",
    ),
    "other labels": (
        lambda folder: (folder / "test_batch").write_bytes(
            pickle.dumps({"labels": [10], "data": np.zeros((1, 3072), np.uint8)}, protocol=2)
        ),
        "labels other than 0 to 9",
    ),
    "names that are none": (
        lambda folder: (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [1]})),
        "no list label_names",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_told_in_one_line_and_no_code_runs(damage: Callable[[Path], object], message: str, tmp_path: Path):
    folder = ten_pickled(tmp_path / "cifar", draw(TEN, 10))
    damage(folder)
    with pytest.raises(DataError, match=message) as caught:
        open_cifar(folder)
    assert "\n" not in str(caught.value) and not (folder / "canary").exists()


def test_a_truncated_binary_is_told(tmp_path: Path):
    folder = ten_binary(tmp_path / "cifar", draw(TEN, 10))
    path = folder / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"data_batch_3\.bin.*truncated copy"):
        open_cifar(folder)
