"""Which kind of data set a folder is, and what --subset keeps."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data.origins.table import Choice, open_origins, recognise
from utils.errors import UsageError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


CIFAR = ("train", "test", "meta")
MNIST = [
    f"raw/{half}-{what}" for half in ("train", "t10k") for what in ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz")
]
KINDS = {
    "folder": ("train/a/1.jpg", "test/a/1.jpg"),
    "lmdb": ("train/meta.json", "train/data.mdb", "val/unfinished.json"),
    "tar": ("ILSVRC2012_img_val.tar",),
    "cifar": tuple(f"cifar-100-python/{name}" for name in CIFAR),
    "mnist": tuple(MNIST),
    "caffe": ("ilsvrc12_train_lmdb/data.mdb", "ilsvrc12_val_lmdb/data.mdb"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_recognised_by_what_it_holds(kind: str, tmp_path: Path):
    assert recognise(touch(tmp_path, *KINDS[kind])) == kind


def test_several_kinds_in_one_folder_are_told_apart_by_a_flag(tmp_path: Path):
    with pytest.raises(UsageError, match="holds several data sets; say which by --kind folder or --kind tar"):
        recognise(touch(tmp_path, *KINDS["folder"], *KINDS["tar"]))


def test_an_unknown_folder_is_told_what_is_known(tmp_path: Path):
    with pytest.raises(UsageError, match=r"has no train/ or val/ or test/ but readme; known are .*CIFAR.*MNIST.*Caffe"):
        recognise(touch(tmp_path, "readme"))


def test_a_subset_keeps_what_is_named_and_the_classes(folder: Path, tmp_path: Path, held: Callable):
    whole = open_origins(Choice(folder))
    (tmp_path / "subset.txt").write_text("c/02.JPEG\n\na/09.JPEG\nc/11.JPEG\n")
    kept = open_origins(Choice(folder, subset=tmp_path / "subset.txt"))["train"]
    wanted = [("a", b"09.JPEG"), ("c", b"02.JPEG"), ("c", b"11.JPEG")]
    assert held(kept) == [image for image in held(whole["train"]) if image[:2] in wanted]
    assert kept.classes == whole["train"].classes and kept.listing() != whole["train"].listing()


def test_a_split_of_which_a_subset_names_nothing_stays_whole(folder: Path, tmp_path: Path):
    (tmp_path / "subset.txt").write_text("a/09.JPEG\n")
    assert {
        split: len(origin) for split, origin in open_origins(Choice(folder, subset=tmp_path / "subset.txt")).items()
    } == {
        "train": 1,
        "val": 7,
    }


@pytest.mark.parametrize(("content", "message"), [("a/09.JPEG\nb/none.JPEG\n", "'b/none.JPEG'"), ("\n", "nothing")])
def test_a_subset_that_names_no_image_is_refused(content: str, message: str, folder: Path, tmp_path: Path):
    (tmp_path / "subset.txt").write_text(content)
    with pytest.raises(UsageError, match=message):
        open_origins(Choice(folder, subset=tmp_path / "subset.txt"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"train_list": Path("x")}, "go together"),
        ({"train_list": Path("x"), "val_list": Path("y"), "kind": "tar"}, "without --kind"),
        ({"class_names": Path("x")}, "names of their own"),
        ({"kind": "cifar"}, "does not hold CIFAR"),
        ({"kind": "mnist"}, "does not hold train-images"),
    ],
)
def test_flags_that_cannot_be_followed_are_refused(words: dict, message: str, folder: Path):
    with pytest.raises(Exception, match=message) as caught:
        open_origins(Choice(folder, **words))
    assert caught.value.exit_code in (2, 3)
