"""Lists of `path label`: which names classes get, and that a list of a folder's images is the folder."""

from pathlib import Path

import numpy as np
import pytest

from data.origins.listed import open_lists
from data.origins.origin import Origin, origin_of
from data.stores import open_store
from utils.errors import DataError, UsageError


def write(folder: Path, train: str, val: str) -> dict[str, Path]:
    """The list files of these lines, divided by blanks around a bar."""
    lists = {}
    for split, lines in (("train", train), ("val", val)):
        lists[split] = folder / f"{split}.txt"
        lists[split].write_text("".join(f"{line.strip()}\n" for line in lines.split("|")))
    return lists


def names(origin: Origin) -> list[str]:
    return [name.decode() for name in origin.names().tolist()]


@pytest.mark.parametrize("prefix", ["{split}/", "", "./{split}/"])
def test_a_list_of_a_folders_images_is_the_folder(prefix: str, folder: Path, tmp_path: Path, held):
    lists = {}
    for split in ("train", "val"):
        paths = sorted((folder / split).glob("*/*"), reverse=True)
        lines = [
            f"{prefix.format(split=split)}{path.parent.name}/{path.name} {'abc'.index(path.parent.name)}\n"
            for path in paths
        ]
        lists[split] = tmp_path / f"{split}.txt"
        lists[split].write_text("".join(lines))
    for split, listed in open_lists(folder, lists, None).items():
        made = origin_of(open_store(folder, split))
        assert held(listed) == held(made) and listed.classes == made.classes
        assert listed.listing() == made.listing() and np.array_equal(listed.sizes(), made.sizes())


RULES = {
    "folders name classes, in the order of the labels": ("z/1.jpg 0|a/2.jpg 1", "z/1.jpg 0", "z a", "z/1.jpg a/2.jpg"),
    "deeper folders belong to the outermost": (
        "a/b/1.jpg 0|a/c/2.jpg 0|d/1.jpg 1",
        "a/1.jpg 0",
        "a d",
        "a/b/1.jpg a/c/2.jpg d/1.jpg",
    ),
    "shared folders are left away": ("x/y/a/1.jpg 0|x/y/b/1.jpg 1", "a/1.jpg 0", "a b", "a/1.jpg b/1.jpg"),
    "one class keeps its folder": ("x/a/1.jpg 0|x/a/2.jpg 0", "a/1.jpg 0", "a", "a/1.jpg a/2.jpg"),
    "a flat list takes the other's names": ("a/1.jpg 0|b/1.jpg 1", "1.jpg 1|2.jpg 0", "a b", "a/1.jpg b/1.jpg"),
    "a label in two folders": ("a/1.jpg 0|b/1.jpg 0|c/2.jpg 1", "c/2.jpg 1", "0 1", "0/a/1.jpg 0/b/1.jpg 1/c/2.jpg"),
    "a folder of two labels": ("a/1.jpg 0|a/2.jpg 1", "a/2.jpg 1", "0 1", "0/a/1.jpg 1/a/2.jpg"),
    "lists that disagree": ("a/1.jpg 0|b/1.jpg 1", "b/1.jpg 0|a/1.jpg 1", "0 1", "0/a/1.jpg 1/b/1.jpg"),
    "a label without images": ("a/1.jpg 0|b/1.jpg 2", "a/1.jpg 0", "0 1 2", "0/a/1.jpg 2/b/1.jpg"),
    "blanks in a path, blank lines": ("a/1 x.jpg 0||b/1.jpg\t1", "a/1.jpg 0", "a b", "a/1 x.jpg,b/1.jpg"),
}


@pytest.mark.parametrize(("train", "val", "classes", "images"), RULES.values(), ids=RULES.keys())
def test_classes_are_named_by_the_rule(train: str, val: str, classes: str, images: str, tmp_path: Path):
    origins = open_lists(tmp_path, write(tmp_path, train, val), None)
    assert origins["train"].classes == origins["val"].classes == tuple(classes.split())
    assert names(origins["train"]) == images.split("," if "," in images else " ")


def test_a_file_names_the_classes(tmp_path: Path):
    (tmp_path / "names.txt").write_text("tench\ngreat white shark\ncock\n")
    lists = write(tmp_path, "a/1.jpg 0|b/1.jpg 1", "a/1.jpg 0")
    origins = open_lists(tmp_path, lists, tmp_path / "names.txt")
    assert origins["val"].classes == ("tench", "great white shark", "cock")
    assert names(origins["train"]) == ["tench/a/1.jpg", "great white shark/b/1.jpg"]
    (tmp_path / "names.txt").write_text("tench\n")
    with pytest.raises(UsageError, match="names 1 classes; the images have labels up to 1"):
        open_lists(tmp_path, lists, tmp_path / "names.txt")


@pytest.mark.parametrize(
    ("line", "message"),
    [("a/1.jpg", "line 2"), ("a/1.jpg -1", "line 2"), ("a/1.jpg x", "line 2"), ("a.jpg 99999999999", "line 2")],
)
def test_a_line_that_is_no_path_and_label_is_named(line: str, message: str, tmp_path: Path):
    with pytest.raises(UsageError, match=message) as caught:
        open_lists(tmp_path, write(tmp_path, f"a/0.jpg 0|{line}", "a/0.jpg 0"), None)
    assert "train.txt" in str(caught.value) and "\n" not in str(caught.value)


def test_lists_that_are_empty_or_not_there_are_named(tmp_path: Path):
    lists = write(tmp_path, "", "a/0.jpg 0")
    with pytest.raises(UsageError, match=r"train\.txt names no images"):
        open_lists(tmp_path, lists, None)
    lists["train"].unlink()
    with pytest.raises(UsageError, match=r"train\.txt cannot be read"):
        open_lists(tmp_path, lists, None)


def test_a_file_that_is_not_there_is_told_when_it_is_read(tmp_path: Path):
    origin = open_lists(tmp_path, write(tmp_path, "a/0.jpg 0", "a/0.jpg 0"), None)["train"]
    assert origin.sizes().tolist() == [0]
    with pytest.raises(DataError, match=r"a/0\.jpg cannot be read: No such file"):
        origin.read(0)
