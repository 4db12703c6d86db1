"""Builds that are interrupted, changed, damaged, or told to bear bad images."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data import lmdb_writer
from data.lmdb_format import read_index
from data.lmdb_space import check_space, data_bytes
from data.lmdb_writer import build
from data.order import Request
from data.origins.origin import Origin, origin_of
from data.plan import ValPlan
from data.source import Source
from data.stores import open_store
from data.torch_loader import TorchLoader
from data.treatment import Treatment
from utils.errors import DataError, UsageError

PLAIN = Treatment()


class Stop(Exception):
    """The end of a build in the middle of things."""


@pytest.fixture(autouse=True)
def small_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images are checked at once, and every pair is a transaction."""
    monkeypatch.setattr(lmdb_writer, "CHUNK", 2)
    monkeypatch.setattr(lmdb_writer, "COMMIT", 1)


class Builds:
    """Builds of one folder into one LMDB, and what they said."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder, self.target, self.said = folder, target, []
        self.shown = 0

    def run(self, treatment: Treatment = PLAIN, stop_at: int | None = None) -> dict[str, lmdb_writer.Outcome]:
        """Build; stop once so many images of both splits are done."""
        self.said.clear()
        self.shown = 0
        sources = {split: open_store(self.folder, split) for split in ("train", "val")}

        def progress(split: str, done: int) -> None:
            self.shown += done
            if stop_at is not None and self.shown >= stop_at:
                raise Stop

        return build(sources, self.target, 0, progress, treatment, self.said.append)

    def contents(self) -> list[dict[str, str]]:
        return [open_store(self.target, split).identity() for split in ("train", "val")]


@pytest.fixture
def builds(folder: Path, tmp_path: Path) -> Builds:
    return Builds(folder, tmp_path / "lmdb")


@pytest.fixture
def undisturbed(folder: Path, tmp_path: Path) -> Builds:
    return Builds(folder, tmp_path / "undisturbed")


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


@pytest.mark.parametrize("policy", ["error", "skip", "keep"])
def test_a_build_stopped_after_each_transaction_goes_on_to_the_same(
    policy: str, builds: Builds, undisturbed: Builds, folder: Path
):
    if policy != "error":
        for name in ("train/a/00.JPEG", "train/b/04.JPEG", "train/c/11.JPEG", "val/c/05.JPEG"):
            spoil(folder / name)
    treatment = Treatment(shorter_side=50, on_bad_image=policy)
    outcomes = undisturbed.run(treatment)
    for done in range(2, 19, 2):
        with pytest.raises(Stop):
            builds.run(treatment, stop_at=done)
        assert not list(builds.target.glob("*/meta.json"))
        assert done <= 2 or any("going on after" in line for line in builds.said)
    assert builds.run(treatment) == outcomes and builds.shown == 19
    assert builds.contents() == undisturbed.contents()
    for split in ("train", "val"):
        files = [{path.name for path in (target / split).iterdir()} for target in (builds.target, undisturbed.target)]
        assert files[0] == files[1]
        if policy == "skip":
            assert (builds.target / split / "skipped.txt").read_bytes() == (
                undisturbed.target / split / "skipped.txt"
            ).read_bytes()


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "an image more": (lambda folder: shutil.copy(folder / "val/a/00.JPEG", folder / "train/a/99.JPEG"), "the source"),
    "an image less": (lambda folder: (folder / "train/c/11.JPEG").unlink(), "the source"),
    "an image that was written": (
        lambda folder: shutil.copy(folder / "train/c/11.JPEG", folder / "train/a/00.JPEG"),
        "images that were written have changed",
    ),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES.keys())
def test_a_build_starts_anew_and_says_so_when_the_source_changed(
    change: Callable[[Path], object], message: str, builds: Builds, undisturbed: Builds, folder: Path
):
    with pytest.raises(Stop):
        builds.run(stop_at=6)
    change(folder)
    builds.run()
    undisturbed.run()
    assert any(message in line and "starting anew" in line for line in builds.said), builds.said
    assert builds.contents() == undisturbed.contents()


def test_a_build_starts_anew_and_says_so_when_options_changed(builds: Builds, undisturbed: Builds):
    with pytest.raises(Stop):
        builds.run(stop_at=6)
    builds.run(Treatment(shorter_side=30))
    undisturbed.run(Treatment(shorter_side=30))
    assert any("options" in line and "starting anew" in line for line in builds.said), builds.said
    assert builds.contents() == undisturbed.contents()


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x55
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a byte of an image": lambda split: flip(split / "data.mdb", (split / "data.mdb").stat().st_size // 2),
    "data.mdb cut": lambda split: os.truncate(split / "data.mdb", 9000),
    "data.mdb empty": lambda split: os.truncate(split / "data.mdb", 0),
    "data.mdb gone": lambda split: (split / "data.mdb").unlink(),
    "journal cut": lambda split: os.truncate(split / "journal.bin", 40),
    "journal gone": lambda split: (split / "journal.bin").unlink(),
    "journal wrong": lambda split: flip(split / "journal.bin", 17),
    "unfinished.json cut": lambda split: os.truncate(split / "unfinished.json", 9),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_what_a_killed_build_left_is_only_trusted_after_a_check(
    damage: Callable[[Path], object], builds: Builds, undisturbed: Builds
):
    with pytest.raises(Stop):
        builds.run(stop_at=8)
    damage(builds.target / "train")
    builds.run()
    undisturbed.run()
    assert builds.contents() == undisturbed.contents()
    store = open_store(builds.target, "train")
    assert all(store.read(index) for index in range(len(store)))


def test_a_journal_that_is_ahead_of_the_records_is_cut(builds: Builds, undisturbed: Builds, monkeypatch):
    def fail(*_: object) -> None:
        raise Stop

    with pytest.raises(Stop):
        builds.run(stop_at=4)
    with monkeypatch.context() as broken, pytest.raises(Stop):
        broken.setattr(lmdb_writer, "_put", fail)
        builds.run()
    builds.run()
    undisturbed.run()
    assert any("going on after 4 of 12" in line for line in builds.said), builds.said
    assert builds.contents() == undisturbed.contents()


def test_a_build_killed_while_it_tidied_is_finished_by_the_same_and_safe_from_another(builds: Builds, monkeypatch):
    def fail(*_: object) -> None:
        raise Stop

    with monkeypatch.context() as broken, pytest.raises(Stop):
        broken.setattr(lmdb_writer, "_tidy", fail)
        builds.run()
    with pytest.raises(UsageError, match="finished LMDB"):
        builds.run(Treatment(shorter_side=30))
    before = builds.contents()
    assert builds.run()["val"].images == 7 and builds.contents() == before
    assert {path.name for path in (builds.target / "val").iterdir()} == {"data.mdb", "index.npy", "meta.json"}


def test_skipped_images_are_listed_and_the_rest_is_a_folder_without_them(builds: Builds, undisturbed: Builds, folder):
    (folder / "train/b/04.JPEG").write_bytes(b"")
    spoil(folder / "train/c/02.JPEG")
    outcomes = builds.run(Treatment(on_bad_image="skip"))
    assert outcomes == {"train": (10, 2, 0), "val": (7, 0, 0)}
    names, reasons = zip(
        *(line.split("\t") for line in (builds.target / "train/skipped.txt").read_text().splitlines()), strict=True
    )
    assert names == ("b/04.JPEG", "c/02.JPEG") and "is empty" in reasons[0] and "is truncated" in reasons[1]
    for name in names:
        (folder / "train" / name).unlink()
    undisturbed.run()
    assert builds.contents() == undisturbed.contents()
    assert not (builds.target / "val/skipped.txt").exists()


def test_kept_images_are_met_by_the_training_run_which_has_its_own_policy(builds: Builds, folder: Path):
    bad = (folder / "train/b/04.JPEG").read_bytes()[:-60]
    (folder / "train/b/04.JPEG").write_bytes(bad)
    assert builds.run(Treatment(on_bad_image="keep"))["train"] == (12, 0, 1)
    store = open_store(builds.target, "train")
    index = read_index(builds.target / "train")
    assert store.read(5) == bad and index["width"].tolist().index(0) == index["height"].tolist().index(0) == 5
    request = Request(0, np.array([4, 5, 6]))
    with pytest.raises(DataError, match=r"record 00000005.* is truncated"):
        TorchLoader(Source(store, ValPlan(20, 16, "bilinear"), skips=False), 0).load(request)
    batch = TorchLoader(Source(store, ValPlan(20, 16, "bilinear"), skips=True), 0).load(request)
    assert batch.indices.tolist() == [4, 6] and batch.bad.tolist() == [5]


def test_a_split_without_a_good_image_is_an_error(builds: Builds, folder: Path):
    for path in (folder / "val").glob("*/*"):
        spoil(path)
    with pytest.raises(DataError, match="none of the 7 images"):
        builds.run(Treatment(on_bad_image="skip"))


def test_other_pixels_have_another_listing(builds: Builds, undisturbed: Builds):
    builds.run(Treatment(shorter_side=30))
    undisturbed.run()
    for ours, theirs in zip(builds.contents(), undisturbed.contents(), strict=True):
        assert ours["listing"] != theirs["listing"]


def test_an_lmdb_makes_a_smaller_one(builds: Builds, undisturbed: Builds):
    undisturbed.run()
    small = Builds(undisturbed.target, undisturbed.target.parent / "small")
    small.run(Treatment(shorter_side=30))
    builds.run(Treatment(shorter_side=30))
    assert small.contents() == builds.contents()


class Noise:
    """A medium of noise, of given sizes."""

    def __init__(self, sizes: list[int]) -> None:
        self._sizes = np.array(sizes)

    def read(self, row: int) -> bytes:
        return bytes(self._sizes[row])

    def name(self, row: int) -> str:
        return str(row)

    def sizes(self) -> np.ndarray:
        return self._sizes


@pytest.mark.parametrize(
    "sizes",
    [[110_000] * 100, [300] * 5000, [1900, 2000, 2020, 2100] * 200, list(range(500, 9000, 10)), [600, 90_000] * 100],
)
def test_the_space_that_is_asked_for_is_what_is_taken(sizes: list[int], tmp_path: Path, monkeypatch):
    monkeypatch.setattr(lmdb_writer, "CHUNK", 32)
    monkeypatch.setattr(lmdb_writer, "COMMIT", 1 << 20)
    labels, files = np.zeros(len(sizes), np.int32), np.array([b"%05d" % n for n in range(len(sizes))])
    origin = Origin("noise", ("a",), labels, files, Noise(sizes))
    build({"train": origin}, tmp_path, 0, lambda split, done: None, Treatment(on_bad_image="keep"), lambda line: None)
    taken = (tmp_path / "train" / "data.mdb").stat().st_size
    assert taken <= data_bytes(origin.sizes()) <= 1.1 * taken + (1 << 19)
    assert len(read_index(tmp_path / "train")) == len(sizes)


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(builds: Builds, monkeypatch: pytest.MonkeyPatch):
    real = os.statvfs
    monkeypatch.setattr(
        os, "statvfs", lambda path: os.statvfs_result([4096, 4096, 100, 50, 25, *tuple(real(path))[5:]])
    )
    with pytest.raises(DataError, match=r"needs \d MiB on the disk; 0 are written, 0 free: make room"):
        builds.run()
    assert not list(builds.target.glob("*/data.mdb"))


def test_an_estimate_says_that_it_is_one(folder: Path, tmp_path: Path):
    origins = {"train": origin_of(open_store(folder, "train"))}
    assert "estimated" in check_space(tmp_path, origins, Treatment(shorter_side=30))
    assert "estimated" not in check_space(tmp_path, origins, Treatment())
