"""What --data-dir may hold, and what is said of everything else."""

import hashlib
import os
import pickle
import shutil
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image

from data.stores import FolderStore, check_classes, open_store
from utils.errors import DataError, TrainingError, UsageError


def test_folder_numbers_images_by_sorted_class_and_file(folder: Path):
    store = open_store(folder, "train")
    expected = sorted(path.relative_to(folder / "train") for path in (folder / "train").glob("*/*"))
    assert [store.name(index) for index in range(len(store))] == [str(folder / "train" / path) for path in expected]
    assert [store.classes[label] for label in store.labels] == [path.parts[0] for path in expected]
    assert [store.read(index) for index in (0, 11)] == [
        (folder / "train" / path).read_bytes() for path in (expected[0], expected[-1])
    ]


def test_listing_is_the_sha256_of_the_sorted_names(folder: Path):
    names = sorted(str(path.relative_to(folder / "val")) for path in (folder / "val").glob("*/*"))
    expected = hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
    assert open_store(folder, "val").identity() == {"listing": expected}


def test_validation_may_lie_in_test(folder: Path):
    (folder / "val").rename(folder / "test")
    assert len(open_store(folder, "val")) == 7
    shutil.copytree(folder / "train", folder / "val")
    assert len(open_store(folder, "val")) == 12


def test_hidden_files_and_folders_and_other_files_are_ignored_and_counted(folder: Path):
    train = folder / "train"
    (train / ".ipynb_checkpoints").mkdir()
    (train / "a" / "._00.JPEG").write_bytes(b"")
    (train / "a" / "notes.txt").write_bytes(b"")
    (train / "a" / "x.jPg").write_bytes(b"")
    store = open_store(folder, "train")
    assert (len(store), store.classes, store.ignored) == (13, ("a", "b", "c"), 2)
    assert "2 other files ignored" in store.describe()


def test_files_in_deeper_folders_belong_to_the_outermost_class(folder: Path):
    (folder / "train" / "a" / "images").mkdir()
    (folder / "train" / "a" / "images" / "z.JPEG").write_bytes(b"deep")
    store = open_store(folder, "train")
    deep = [index for index in range(len(store)) if store.read(index) == b"deep"]
    assert [store.labels[index] for index in deep] == [0]
    assert store.name(deep[0]).endswith("train/a/images/z.JPEG")


def test_names_that_are_not_ascii_are_read(folder: Path):
    name = os.fsencode(folder / "train" / "ä") + b"\xff"
    os.mkdir(name)
    with open(name + b"/\xe4 b.jpeg", "wb") as file:
        file.write(b"odd")
    store = open_store(folder, "train")
    assert store.read(len(store) - 1) == b"odd"


def test_a_class_without_images_is_refused_by_name(folder: Path):
    (folder / "train" / "empty").mkdir()
    with pytest.raises(DataError, match=r"train/empty holds no images"):
        open_store(folder, "train")


def test_missing_data_set_is_a_usage_error_and_creates_nothing(tmp_path: Path):
    with pytest.raises(UsageError, match=f"no data set at {tmp_path}/none"):
        open_store(tmp_path / "none", "train")
    assert list(tmp_path.iterdir()) == []


def test_missing_split_is_a_usage_error_that_says_what_is_there(folder: Path):
    shutil.rmtree(folder / "val")
    with pytest.raises(UsageError, match=r"has no val/ or test/ but train"):
        open_store(folder, "val")
    with pytest.raises(UsageError, match=r"has no train/ but a, b, c"):
        open_store(folder / "train", "train")
    with pytest.raises(UsageError, match=r"has no train/ but a file"):
        open_store(folder / "train" / "a" / "00.JPEG", "train")


def test_a_folder_of_neither_form_is_a_usage_error_that_says_what_is_there(tmp_path: Path):
    (tmp_path / "train").mkdir()
    for number in range(8):
        Image.new("L", (2, 2)).save(tmp_path / "train" / f"{number}.jpg")
    with pytest.raises(UsageError, match=r"neither an LMDB .* nor .*; it holds 0\.jpg, .* and 3 more"):
        open_store(tmp_path, "train")


def test_a_file_that_vanished_is_named(folder: Path):
    store = open_store(folder, "train")
    (folder / "train" / "a" / "00.JPEG").unlink()
    with pytest.raises(DataError, match=r"train/a/00\.JPEG cannot be read: No such file"):
        store.read(0)


def test_classes_that_differ_are_listed(folder: Path):
    (folder / "val" / "b").rename(folder / "val" / "d")
    with pytest.raises(UsageError, match=r"missing b, extra d"):
        check_classes(open_store(folder, "train"), open_store(folder, "val"))


def test_a_folder_store_survives_pickling(folder: Path):
    store = open_store(folder, "train")
    copy = pickle.loads(pickle.dumps(store))
    assert copy.read(5) == store.read(5) and copy.identity() == store.identity()


def test_names_are_held_as_one_array_of_bytes(folder: Path):
    store = FolderStore(folder / "train")
    held = [value for value in vars(store).values() if isinstance(value, list | tuple | dict)]
    assert max(len(value) for value in held) == 3  # classes; nothing that grows with the images


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("subdir", [True, False])
def test_another_programs_lmdb_is_refused_without_running_its_code(tmp_path: Path, subdir: bool):
    """The folder2lmdb form, and the ModelZoo ancestor's: pickled values, keys "0", "1", ... and `__len__`."""
    path = tmp_path / ("train" if subdir else "train.lmdb")
    with lmdb.open(str(path), map_size=1 << 20, subdir=subdir) as environment, environment.begin(write=True) as writing:
        for key in (b"0", b"1", b"__len__", b"__keys__"):
            writing.put(key, pickle.dumps(Canary(tmp_path / "canary")))
    with pytest.raises(DataError, match=r"another program's LMDB.*generate_lmdb"):
        open_store(tmp_path, "train")
    assert not (tmp_path / "canary").exists()


def test_errors_are_one_line(folder: Path, tmp_path: Path):
    np.save(folder / "train" / "index.npy", np.zeros(3))
    for data_dir, split in ((tmp_path / "none", "val"), (folder / "val", "val"), (folder, "train")):
        with pytest.raises(TrainingError) as caught:
            open_store(data_dir, split)
        assert "\n" not in str(caught.value) and str(data_dir) in str(caught.value)
