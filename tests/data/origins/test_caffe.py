"""Caffe's LMDBs, written with LMDB's engine and a protocol buffer of the test's own making."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image

from data.origins.caffe import holds, open_caffe
from utils.errors import DataError, UsageError


def varint(value: int) -> bytes:
    """A number in groups of seven bits, the lowest first."""
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """A protocol buffer of numbers and strings of bytes."""
    parts = []
    for number, value in fields:
        kind = 2 if isinstance(value, bytes) else 0
        parts += [varint(number << 3 | kind), varint(len(value)) + value if kind else varint(value)]
    return b"".join(parts)


def write(path: Path, records: dict[bytes, bytes], subdir: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        lmdb.open(str(path), map_size=1 << 24, subdir=subdir, lock=False) as environment,
        environment.begin(write=True) as writing,
    ):
        for key, value in records.items():
            writing.put(key, value)


def pixels(seed: int, channels: int, height: int, width: int) -> np.ndarray:
    """(channels, height, width), blue first as Caffe has it."""
    return np.random.default_rng(seed).integers(256, size=(channels, height, width), dtype=np.uint8)


def raw(picture: np.ndarray, label: int) -> bytes:
    channels, height, width = picture.shape
    return message((1, channels), (2, height), (3, width), (4, picture.tobytes()), (5, label))


def test_encoded_records_keep_their_bytes_and_are_ordered_by_label_and_key(tmp_path: Path, encoded, picture, held):
    files = {
        key: encoded(picture(seed, 30 + seed, 40)) for seed, key in enumerate((b"x/1", b"w/2.JPEG", b"00_3", b"z"))
    }
    labels = {b"x/1": 1, b"w/2.JPEG": 0, b"00_3": 300, b"z": 0}
    records = {key: message((4, data), (5, labels[key]), (7, 1)) for key, data in files.items()}
    records[b"z"] = message((1, 3), (2, 40), (3, 33), (4, files[b"z"]), (7, 1))  # label 0 may be left out
    write(tmp_path / "ilsvrc12_train_lmdb", records)
    write(tmp_path / "ilsvrc12_val_lmdb", {b"v": message((7, 1), (5, 2), (4, files[b"z"]))})
    assert holds(tmp_path)
    origins = open_caffe(tmp_path)
    order = [b"w/2.JPEG", b"z", b"x/1", b"00_3"]
    assert held(origins["train"]) == [(str(labels[key]), key, files[key]) for key in order]
    assert held(origins["val"]) == [("2", b"v", files[b"z"])]
    assert origins["train"].classes == origins["val"].classes == tuple(str(number) for number in range(301))


@pytest.mark.parametrize("subdir", [True, False], ids=["a folder", "a file"])
def test_bare_pixels_become_pngs_of_the_same_pixels(subdir: bool, tmp_path: Path):
    pictures = [pixels(0, 3, 5, 7), pixels(1, 1, 28, 28), pixels(2, 3, 90, 60)]
    records = {b"%08d" % number: raw(picture, number) for number, picture in enumerate(pictures)}
    write(tmp_path / "train.lmdb", records, subdir)
    write(tmp_path / "test.lmdb", records, subdir)
    for origin in open_caffe(tmp_path).values():
        for index, picture in enumerate(pictures):
            shown = np.asarray(Image.open(io.BytesIO(origin.read(index))))
            expected = np.stack([picture[2], picture[1], picture[0]], axis=2) if len(picture) == 3 else picture[0]
            assert np.array_equal(shown, expected)


STRANGE: dict[str, tuple[bytes, str]] = {
    "pickled pair": (pickle.dumps((b"\xff\xd8\xff", 1)), "no image as a Caffe Datum"),
    "text": (b"hello world", "no image as a Caffe Datum"),
    "empty": (b"", "no image as a Caffe Datum"),
    "negative label": (message((4, b"x"), (5, (1 << 64) - 1), (7, 1)), "label -1"),
    "floats": (message((1, 1), (2, 1), (3, 1), (5, 1)) + b"\x35\0\0\0\0", "no image as a Caffe Datum"),
    "pixels missing": (message((1, 3), (2, 4), (3, 4), (4, bytes(47)), (5, 1)), "47 bytes of pixels"),
    "two channels": (message((1, 2), (2, 4), (3, 4), (4, bytes(32)), (5, 1)), "2 x 4 x 4"),
    "cut": (message((1, 3), (4, bytes(99)))[:-9], "in the middle of a field"),
}


@pytest.mark.parametrize(("value", "why"), STRANGE.values(), ids=STRANGE.keys())
def test_a_value_that_is_no_image_is_refused_with_what_to_do(value: bytes, why: str, tmp_path: Path):
    for split in ("train", "val"):
        write(tmp_path / split, {b"0": value, b"__len__": value})
    with pytest.raises(DataError, match=why) as caught:
        open_caffe(tmp_path)
    assert "generate_lmdb.py from the image folder" in str(caught.value) and "\n" not in str(caught.value)


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_the_ancestors_serialised_pairs_are_not_read(tmp_path: Path):
    for split in ("train", "val"):
        write(tmp_path / f"{split}.lmdb", {b"0": pickle.dumps(Canary(tmp_path / "canary"))}, subdir=False)
    with pytest.raises(DataError, match="another program's LMDB"):
        open_caffe(tmp_path)
    assert not (tmp_path / "canary").exists()


def test_two_lmdbs_of_one_split_are_refused(tmp_path: Path, encoded: Callable, picture: Callable):
    for name in ("a_train_lmdb", "b_train_lmdb", "val_lmdb"):
        write(tmp_path / name, {b"0": raw(pixels(0, 3, 4, 4), 0)})
    with pytest.raises(UsageError, match=r"one Caffe LMDB with train in its name; found .*a_train.*b_train"):
        open_caffe(tmp_path)
