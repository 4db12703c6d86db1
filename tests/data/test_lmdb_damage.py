"""Random damage to an LMDB's files: whatever is read is an error of ours or what was built. More by hand:

DAMAGES=1000 python -m pytest tests/data/test_lmdb_damage.py
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data.lmdb_pages import places
from data.loaders import open_training
from data.order import Request
from utils.config.data import DataConfig
from utils.errors import DataError, EnvironmentFault

COUNT = int(os.environ.get("DAMAGES", "60"))
FILES = ("data.mdb", "index.npy", "meta.json")
SECONDS = 10.0  # for opening and reading 12 images, which take milliseconds

Content = bytearray
Draw = np.random.Generator


def flip_bits(content: Content, draw: Draw) -> None:
    for _ in range(draw.integers(1, 9)):
        content[draw.integers(len(content))] ^= 1 << int(draw.integers(8))


def flip_in_a_page_head(content: Content, draw: Draw) -> None:
    """Where LMDB's own engine was seen to die."""
    page = draw.integers(-(-len(content) // 4096)) * 4096
    for _ in range(draw.integers(1, 9)):
        content[min(page + draw.integers(64), len(content) - 1)] ^= 1 << int(draw.integers(8))


def truncate(content: Content, draw: Draw) -> None:
    del content[draw.integers(len(content)) :]


def splice(content: Content, draw: Draw) -> None:
    """A piece of the file lies elsewhere in it too: over what was there, or between."""
    first, place = draw.integers(len(content), size=2)
    piece = content[first : first + draw.integers(1, 1 + len(content) // 4)]
    over = len(piece) if draw.integers(2) else 0
    content[place : place + over] = piece


def overwrite(content: Content, draw: Draw) -> None:
    """Some bytes become zero, or random, or the largest numbers that there are."""
    place, length = draw.integers(len(content)), int(draw.choice([1, 4, 8, 100, 5000]))
    piece = [bytes(length), draw.bytes(length), b"\xff" * length][draw.integers(3)]
    content[place : place + length] = piece


DAMAGES: list[Callable[[Content, Draw], None]] = [flip_bits, flip_in_a_page_head, truncate, splice, overwrite]


def damage(split: Path, whole: dict[str, bytes], number: int) -> str:
    """Damage number `number` of one file; what it was."""
    draw = np.random.default_rng(number)
    name, kind = FILES[number % len(FILES)], DAMAGES[draw.integers(len(DAMAGES))]
    content = bytearray(whole[name])
    kind(content, draw)
    (split / name).write_bytes(content)
    return f"{kind.__name__} of {name}" if content != whole[name] else ""


def read_all(data_dir: Path) -> list[tuple[bytes, bytes, int] | None]:
    """Every image's bytes, pixels by the engine that is there, and label; None for those that are refused."""
    store, loader = open_training(DataConfig(data_dir=str(data_dir), img_size=16, workers=0), 0)
    found = []
    for index in range(len(store)):
        try:
            (batch,) = loader.batches([Request(0, np.array([index]))])
            found.append((store.read(index), batch.images.numpy().tobytes(), batch.labels.item()))
        except DataError as error:
            assert "\n" not in str(error) and "data.mdb" in str(error)
            found.append(None)
    return found


def test_whatever_is_read_from_damaged_files_is_an_error_or_what_was_built(folder: Path, lmdb_of: Callable):
    built = lmdb_of(folder)
    expected, outcomes = read_all(built), {"opening refused": 0, "records refused": 0, "all as built": 0}
    whole = {name: (built / "train" / name).read_bytes() for name in FILES}
    for number in range(COUNT):
        shutil.copytree(built, folder / "damaged")
        told, begin = damage(folder / "damaged" / "train", whole, number), time.monotonic()
        try:
            found = read_all(folder / "damaged")
        except (DataError, EnvironmentFault) as error:
            assert "\n" not in str(error) and str(folder) in str(error)
            outcomes["opening refused"] += 1
        else:
            assert len(found) == len(expected), (number, told)
            assert all(is_one in (None, was) for is_one, was in zip(found, expected, strict=True)), (number, told)
            outcomes["records refused" if None in found else "all as built"] += 1
        walk(folder / "damaged" / "train" / "data.mdb")
        assert time.monotonic() - begin < SECONDS, (number, told)
        shutil.rmtree(folder / "damaged")
    print(outcomes)
    assert min(outcomes.values()) > 0


def walk(path: Path) -> None:
    """The tree of pages is walked to its end, past what is damaged, or the file's head is refused."""
    damages: list[str] = []
    try:
        assert len(list(places(path, damages))) <= path.stat().st_size
    except (DataError, EnvironmentFault):
        return
    assert all(str(path) in line and "\n" not in line for line in damages)
