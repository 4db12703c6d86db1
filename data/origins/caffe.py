"""An LMDB of Caffe's: values are `Datum`s, keys are arbitrary, labels are in the values, classes have no names.

A Datum holds an image's file (`encoded`) or bare pixels, channel by channel, blue first, which become a PNG. Pages are
walked without LMDB's engine and fields without their content; a value that is no Datum, such as the serialised pairs of
the ModelZoo ancestor, is refused unread.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.datum import BYTES, CHANNELS, DATA, ENCODED, HEIGHT, LABEL, VARINT, WIDTH
from data.lmdb_format import DATA as FILE
from data.lmdb_format import INDEX, META, UNFINISHED, foreign
from data.lmdb_pages import Place, places
from data.origins.bare import PNG_HEAD, encode_png
from data.origins.naming import count_classes, number_classes
from data.origins.origin import Origin, read_extent
from utils.errors import UsageError

SPLIT_WORDS = {"train": ("train",), "val": ("val", "test")}  # in a name such as ilsvrc12_train_lmdb, the best first
HEAD = 64  # bytes in which all fields before the image end
LONGEST = 10  # bytes of a varint
NUMBERS = ("label", "channels", "height", "width")
ROW = np.dtype([("offset", "<i8"), ("bytes", "<i8"), *((name, "<i4") for name in NUMBERS), ("encoded", "?")])


class Fields(NamedTuple):
    """The numbers of a Datum, by their field, and where its image lies."""

    numbers: dict[int, int]
    offset: int
    length: int


class Datums:
    """The images of an LMDB as a medium: `rows` (n,) of ROW."""

    def __init__(self, path: Path, keys: NDArray[np.bytes_], rows: NDArray[np.void]) -> None:
        self._path, self._keys, self._rows = path, keys, rows

    def read(self, row: int) -> bytes:
        """The bytes of one image's file, or a PNG of its pixels."""
        place = self._rows[row]
        content = read_extent(self._path, int(place["offset"]), int(place["bytes"]), self.name(row))
        if place["encoded"]:
            return content
        pixels = np.frombuffer(content, np.uint8).reshape(place["channels"], place["height"], place["width"])
        return encode_png(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels[::-1].transpose(1, 2, 0)))

    def name(self, row: int) -> str:
        """How an error names an image."""
        return f"record {self._keys[row]!r} of {self._path}"

    def sizes(self) -> NDArray[np.int64]:
        """The lengths of the files; of bare pixels, what their PNG has at most."""
        return self._rows["bytes"] + np.where(self._rows["encoded"], 0, PNG_HEAD)


def holds(folder: Path) -> bool:
    """Whether there is an LMDB in `folder` that is named after a split and is not one of ours."""
    return any(_candidates(folder, split) for split in SPLIT_WORDS)


def open_caffe(folder: Path) -> dict[str, Origin]:
    """Both splits of the Caffe LMDBs in `folder`. DataError if one is damaged or of another program."""
    files = {split: _file(folder, split) for split in SPLIT_WORDS}
    read = {split: _read(path) for split, path in files.items()}
    classes = number_classes(count_classes(rows["label"] for _, rows in read.values()))
    return {
        split: Origin(f"Caffe LMDB {files[split]}", classes, rows["label"], keys, Datums(files[split], keys, rows))
        for split, (keys, rows) in read.items()
    }


def _candidates(folder: Path, split: str) -> list[Path]:
    """LMDB files that by their name, or their folder's, are of a split."""
    for word in SPLIT_WORDS[split]:
        named = [path for path in sorted(folder.iterdir()) if word in path.name.lower()]
        files = [path / FILE for path in named if path.is_dir() and _is_foreign(path)]
        files += [path for path in named if path.is_file() and path.suffix in (".lmdb", ".mdb")]
        if files:
            return files
    return []


def _is_foreign(folder: Path) -> bool:
    names = set(os.listdir(folder))
    return FILE in names and not names & {INDEX, META, UNFINISHED}


def _file(folder: Path, split: str) -> Path:
    found = _candidates(folder, split)
    if len(found) != 1:
        names = ", ".join(str(path) for path in found) or "none"
        raise UsageError(f"{folder} must hold one Caffe LMDB with {split} in its name; found {names}")
    return found[0]


def _read(path: Path) -> tuple[NDArray[np.bytes_], NDArray[np.void]]:
    """The keys (n,) and rows (n,) of an LMDB's records; two walks, so that no million strings are in memory."""
    count = longest = 0
    for place in places(path):
        count, longest = count + 1, max(longest, len(place.key))
    keys, rows = np.empty(count, dtype=f"S{max(longest, 1)}"), np.empty(count, dtype=ROW)
    with open(path, "rb", buffering=0) as file:
        for number, place in enumerate(places(path)):
            keys[number] = place.key
            try:
                rows[number] = _row(scan(file.fileno(), place))
            except ValueError as error:
                raise foreign(
                    path, f"the value of key {place.key[:40]!r} is no image as a Caffe Datum: {error}"
                ) from error
    return keys, rows


def _row(fields: Fields) -> tuple[int | bool, ...]:
    """The ROW of a record. ValueError if it is no image of 8 bits a channel, grey or of three colours."""
    numbers = fields.numbers
    label, encoded = numbers.get(LABEL, 0), bool(numbers.get(ENCODED, 0))
    shape = [numbers.get(field, 0) for field in (CHANNELS, HEIGHT, WIDTH)]
    if label > np.iinfo(np.int32).max:
        raise ValueError(f"label {label if label < 1 << 63 else label - (1 << 64)}")
    if not encoded and (shape[0] not in (1, 3) or shape[0] * shape[1] * shape[2] != fields.length or not fields.length):
        raise ValueError(f"{fields.length} bytes of pixels, channels x height x width {' x '.join(map(str, shape))}")
    shape = [0, 0, 0] if encoded else shape
    return fields.offset, fields.length, label, *shape, encoded


def scan(file: int, place: Place) -> Fields:
    """The fields of the Datum at `place`; its image is leapt over. ValueError if it is something else."""
    numbers: dict[int, int] = {}
    offset = length = at = 0
    for key, value, begin in _fields(file, place):
        if key & 7 == VARINT and key >> 3 in (CHANNELS, HEIGHT, WIDTH, LABEL, ENCODED):
            numbers[key >> 3] = value
        elif key == DATA << 3 | BYTES and at == 0:
            offset, length, at = place.offset + begin, value, begin
        else:
            raise ValueError(f"field {key >> 3} of kind {key & 7}")
    if not at:
        raise ValueError("no field holds an image")
    return Fields(numbers, offset, length)


def _fields(file: int, place: Place) -> Iterator[tuple[int, int, int]]:
    """Key and value of each field of a record, of one with content the length; and where the next byte lies."""
    at = begin = 0
    window = b""
    while at < place.length:
        if at + 2 * LONGEST > begin + len(window):
            begin, window = at, os.pread(file, min(HEAD, place.length - at), place.offset + at)
        key, near = _varint(window, at - begin)
        value, near = _varint(window, near)
        at = begin + near
        yield key, value, at
        if key & 7 == BYTES:
            at += value
        if at > place.length:
            raise ValueError("it ends in the middle of a field")


def _varint(window: bytes, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and the place after it. ValueError if it does not end."""
    value = 0
    for shift in range(0, 7 * LONGEST, 7):
        if at >= len(window):
            break
        value |= (window[at] & 0x7F) << shift
        at += 1
        if window[at - 1] < 0x80:
            return value, at
    raise ValueError("a number that does not end")
