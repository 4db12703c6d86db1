"""Measures what a data set of ImageNet's length costs beyond its images: memory, time to open, speed of one image.

    python -m scripts.measure_scale                          # builds 5 GB in memory or, if short of that, in /tmp
    python -m scripts.measure_scale --output-dir DIR         # keeps what it built, and measures it again the next time

The images are a few hundred small JPEGs again and again, of 1 to 4 KB, so that what is spent on a record shows beside
its decoding, and batches are small, so that memory which grows with the data set shows beside theirs. Memory is PSS,
where what processes share is divided among them. Prints a line for each limit; the exit code is 1 if one is missed.

The disk is kept out of it: on a machine that took cold pages of the file out of memory within a minute, the large data
set was loaded at half the small one's speed from the disk, at the same speed (0.99 to 1.01) from memory.
"""

import io
import itertools
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm
from tyro.conf import arg

from data.batches import Batch
from data.lmdb_format import META
from data.lmdb_writer import build
from data.loaders import Split, open_training
from data.native_loader import is_built
from data.order import Order, training_requests
from data.origins.origin import Origin
from data.stores import open_store
from utils.config.data import DataConfig
from utils.script import script

IMAGENET, SMALL, CLASSES = 1_281_167, 1000, 1000
PICTURES, SIDES = 300, (40, 120)  # different images, and the range of their sides, pixels
CROP, BATCH = 32, 256
SETTLING, TIMED = 20, 40  # batches before a measurement, and in it
PAUSE = 0.2  # seconds between two looks at the memory
MIB = 1 << 20
MEMORY, ROOM = "/dev/shm", 8 << 30  # where a temporary folder lies best, if so many bytes are free there


@dataclass(frozen=True)
class ScaleConfig:
    """Measure what a data set of ImageNet's length costs beyond its images."""

    output_dir: Annotated[Path | None, arg(aliases=["--save-dir"])] = None
    """folder for the data sets that are built; a temporary one, removed afterwards, if not given"""
    images: int = IMAGENET
    """records of the large data set"""
    rounds: int = 15
    """times that each data set is loaded from, in turn"""


@dataclass(frozen=True)
class Line:
    """A line of the table: what was measured and what it may be, at most or, with `least`, at least."""

    what: str
    found: float
    limit: float
    unit: str
    least: bool = False

    def holds(self) -> bool:
        """Whether the limit is kept."""
        return self.found >= self.limit if self.least else self.found < self.limit

    def __str__(self) -> str:
        bound = f"{'>=' if self.least else '<'} {self.limit:g}"
        return f"{self.what:58} {self.found:9.3f} {self.unit:4} {bound:9} {'ok' if self.holds() else 'MISSED'}"


class Pictures:
    """A medium of `count` rows that shows PICTURES small photograph-like JPEGs again and again."""

    def __init__(self, count: int) -> None:
        draw = np.random.default_rng(0)
        self._encoded = [_jpeg(draw) for _ in range(PICTURES)]
        self._count = count

    def read(self, row: int) -> bytes:
        """The bytes of one image."""
        return self._encoded[row % PICTURES]

    def name(self, row: int) -> str:
        """How an error names it."""
        return f"picture {row}"

    def sizes(self) -> NDArray[np.int64]:
        """The length of each image's bytes."""
        return np.resize(np.array([len(encoded) for encoded in self._encoded]), self._count)


def _jpeg(draw: np.random.Generator) -> bytes:
    """Smooth noise, enlarged eight times."""
    width, height = draw.integers(*SIDES, size=2).tolist()
    coarse = draw.integers(256, size=(height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def pictures(count: int) -> Origin:
    """A data set of `count` images, as many of each class as of another."""
    labels = (np.arange(count) * CLASSES // count).astype(np.int32)
    classes = tuple(f"class_{number:04d}" for number in range(CLASSES))
    files = np.char.mod("%08d", np.arange(count)).astype(np.bytes_)
    return Origin(f"{count} small pictures", classes, labels, files, Pictures(count))


def used_memory() -> float:
    """PSS of this process and its children, MiB."""
    processes = {os.getpid(), *_children()}
    return sum(_pss(process) for process in processes) / MIB


def _children() -> list[int]:
    found = [_read(f"/proc/self/task/{thread}/children") for thread in os.listdir("/proc/self/task")]
    return [int(word) for words in found for word in words.split()]


def _pss(process: int) -> int:
    lines = _read(f"/proc/{process}/smaps_rollup").splitlines()
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


def _read(path: str) -> str:
    """A file of /proc; empty if its process has ended."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def peak_memory(work: Callable[[], object]) -> float:
    """The most that was used while `work` ran, MiB."""
    seen, done = [used_memory()], threading.Event()

    def watch() -> None:
        while not done.wait(PAUSE):
            seen.append(used_memory())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        work()
    finally:
        done.set()
        watching.join()
    return max(seen)


def build_pictures(folder: Path, count: int) -> None:
    """The LMDB of `count` pictures, with a bar."""
    with tqdm(desc=folder.name, total=count, unit=" images", disable=None) as bar:
        workers = len(os.sched_getaffinity(0))
        build({"train": pictures(count)}, folder, workers, lambda split, done: bar.update(done))


def opened(folder: Path, engine: str, workers: int) -> Split:
    """A data set and the engine that loads it."""
    return open_training(DataConfig(data_dir=str(folder), loader=engine, workers=workers, img_size=CROP), seed=0)


def batches(split: Split) -> Iterator[Batch]:
    """Batches without end, in random order."""
    order = Order(0, len(split.store))
    return split.loader.batches(training_requests(order, BATCH, 1, range(1), 0, 1 << 40))


def opening_time(folder: Path) -> float:
    """Seconds to open the data set; the median of some."""
    return statistics.median(_seconds(lambda: open_store(folder, "train")) for _ in range(7))


def first_batch_time(folder: Path, engine: str) -> float:
    """Seconds from nothing to the first batch, opening and the order of the epoch included."""

    def load() -> float:
        begin = time.perf_counter()
        with closing(batches(opened(folder, engine, 2))) as loading:
            next(loading)
            return time.perf_counter() - begin

    return statistics.median(load() for _ in range(3))


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def workers_memory(folder: Path) -> float:
    """What four worker processes use above the process that they load for, MiB."""
    split = opened(folder, "torch", 4)
    alone = used_memory()
    with closing(batches(split)) as loading:
        _take(loading, SETTLING + TIMED)
        return used_memory() - alone


def relative_rate(large: Path, small: Path, engine: str, rounds: int) -> float:
    """How fast an image of the large data set is loaded, the small one's being 1: medians of interleaved rounds.

    Both loaders live all the time, and the one that is not asked waits, so that rounds can be short and many: what else
    the machine does then hits both.
    """
    with closing(batches(opened(large, engine, 2))) as first, closing(batches(opened(small, engine, 2))) as second:
        for loading in (first, second):
            _take(loading, SETTLING)
        times = [[_seconds(partial(_take, loading, TIMED)) for loading in (first, second)] for _ in range(rounds)]
    return statistics.median(took for _, took in times) / statistics.median(took for took, _ in times)


def _take(loading: Iterator[Batch], count: int) -> None:
    for _ in itertools.islice(loading, count):
        pass


def lines(config: ScaleConfig, folder: Path) -> Iterator[Line]:
    """The table, as it is measured."""
    large, small = folder / "large", folder / "small"
    engines = ("torch", "native") if is_built() else ("torch",)
    if not (large / "train" / META).exists():
        peak = peak_memory(lambda: build_pictures(large, config.images))
        yield Line("building: memory at most, workers included", peak, 1000, "MiB")
    if not (small / "train" / META).exists():
        build_pictures(small, SMALL)
    yield Line("opening", opening_time(large), 0.2, "s")
    for engine in engines:
        yield Line(f"first batch, {engine}, 2 workers", first_batch_time(large, engine), 1, "s")
    yield Line("4 workers above the parent", workers_memory(large), 200, "MiB")
    for engine in engines:
        rate = relative_rate(large, small, engine, config.rounds)
        yield Line(f"speed, {engine}, 2 workers, a set of {SMALL} being 1", rate, 0.9, "", least=True)


def measure(config: ScaleConfig) -> int:
    """Measure, print, and come back with the exit code."""
    missed = 0
    in_memory = os.path.isdir(MEMORY) and shutil.disk_usage(MEMORY).free > ROOM
    with tempfile.TemporaryDirectory(prefix="scale", dir=MEMORY if in_memory else None) as temporary:
        folder = config.output_dir or Path(temporary)
        for line in lines(config, folder):
            print(line, flush=True)
            missed += not line.holds()
    return min(missed, 1)


if __name__ == "__main__":
    script(ScaleConfig, measure)
