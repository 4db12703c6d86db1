"""ILSVRC2012's three files, written here as they are published, against the folder that unpacking them makes."""

import io
import os
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import imagenet

from data.origins.ilsvrc import DEVKIT, TRAIN, VAL, holds, open_ilsvrc
from data.stores import FolderStore
from utils.errors import DataError

WNIDS = ("n02000001", "n01000003", "n01000002")
NUMBERS = {"n02000001": 2, "n01000003": 3, "n01000002": 1}  # the devkit's own, in no order that is ours


def tar_of(files: Iterable[tuple[str, bytes]]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return made.getvalue()


def meta_mat() -> bytes:
    """The synsets as MATLAB has them; one has children and is no class."""
    savemat = pytest.importorskip("scipy.io").savemat
    fields = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children"]
    rows = [(float(number), wnid, "a, b", "text", 0.0, np.zeros((0, 0))) for wnid, number in NUMBERS.items()]
    rows.append((4.0, "n09999999", "parent", "text", 2.0, np.array([[1.0, 2.0]])))
    made = io.BytesIO()
    savemat(made, {"synsets": np.array(rows, dtype=[(field, "O") for field in fields]).reshape(-1, 1)})
    return made.getvalue()


@pytest.fixture
def both(tmp_path: Path, encoded: Callable, picture: Callable) -> tuple[Path, Path]:
    """A folder with the three files, and the folder that has the same images as files."""
    images = [encoded(picture(seed, 30 + seed, 20)) for seed in range(11)]
    train = {
        wnid: {f"{wnid}_{(7 * i + 3) % 20}.JPEG": images[3 * k + i] for i in range(2 + k)}
        for k, wnid in enumerate(WNIDS)
    }
    val = {f"ILSVRC2012_val_{number:08d}.JPEG": (images[number], WNIDS[number * 2 % 3]) for number in range(1, 6)}
    tars, folder = tmp_path / "tars", tmp_path / "unpacked"
    tars.mkdir()
    (tars / TRAIN).write_bytes(tar_of((f"{wnid}.tar", tar_of(files.items())) for wnid, files in train.items()))
    (tars / VAL).write_bytes(tar_of((name, val[name][0]) for name in sorted(val, reverse=True)))
    truth = "".join(f"{NUMBERS[val[name][1]]}\n" for name in sorted(val)).encode()
    kit = {"data/meta.mat": meta_mat(), "readme.txt": b"x", "data/ILSVRC2012_validation_ground_truth.txt": truth}
    with tarfile.open(tars / DEVKIT, "w:gz") as tar:
        for name, content in kit.items():
            member = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    unpacked = {f"train/{wnid}/{name}": data for wnid, files in train.items() for name, data in files.items()}
    for name, data in (unpacked | {f"val/{wnid}/{name}": data for name, (data, wnid) in val.items()}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return tars, folder


def test_tars_hold_what_unpacking_them_makes(both: tuple[Path, Path]):
    tars, folder = both
    assert holds(tars) and not holds(folder)
    for split, origin in open_ilsvrc(tars).items():
        store = FolderStore(folder / split)
        assert origin.classes == store.classes and np.array_equal(origin.labels, store.labels)
        assert [origin.read(i) for i in range(len(origin))] == [store.read(i) for i in range(len(store))]
        assert origin.listing() == store.listing and origin.files.tolist() == store.files.tolist()
        assert origin.sizes().tolist() == [len(store.read(i)) for i in range(len(store))]


def test_validation_labels_are_those_of_torchvisions_parser(both: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch):
    tars, _ = both
    monkeypatch.setattr(imagenet, "_verify_archive", lambda *_: None)  # its md5 is that of the published file
    imagenet.parse_devkit_archive(tars)
    _, wnids = imagenet.load_meta_file(tars)
    origin = open_ilsvrc(tars)["val"]
    labels = dict(zip(origin.files.tolist(), origin.labels.tolist(), strict=True))
    assert [origin.classes[labels[name]] for name in sorted(labels)] == wnids


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no devkit": (lambda tars: (tars / DEVKIT).unlink(), f"lacks {DEVKIT}"),
    "only val": (lambda tars: [(tars / name).unlink() for name in (TRAIN, DEVKIT)], f"lacks {TRAIN} and {DEVKIT}"),
    "half a train tar": (
        lambda tars: os.truncate(tars / TRAIN, (tars / TRAIN).stat().st_size // 2),
        "img_train.*trunc",
    ),
    "half a val tar": (lambda tars: os.truncate(tars / VAL, 1000), "img_val.*truncated"),
    "train of plain images": (
        lambda tars: (tars / TRAIN).write_bytes((tars / VAL).read_bytes()),
        "a tar for each class",
    ),
    "no tar": (lambda tars: (tars / TRAIN).write_bytes(b"<html>" * 999), "cannot be read as a tar"),
    "a class without images": (
        lambda tars: (tars / TRAIN).write_bytes(tar_of([("n1.tar", tar_of([("a.txt", b"x")]))])),
        r"n1\.tar holds no images",
    ),
    "fewer images than labels": (
        lambda tars: (tars / VAL).write_bytes(tar_of([("ILSVRC2012_val_00000001.JPEG", b"x")])),
        "holds 1 images.* 5 labels",
    ),
    "half a devkit": (lambda tars: os.truncate(tars / DEVKIT, 300), "devkit_t12.* cannot be read"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_told_in_one_line(damage: Callable[[Path], object], message: str, both: tuple[Path, Path]):
    damage(both[0])
    with pytest.raises(DataError, match=message) as caught:
        open_ilsvrc(both[0])
    assert "\n" not in str(caught.value)
