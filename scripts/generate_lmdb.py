"""Builds an LMDB, train/ and val/ at once, checking every image by decoding it.

    python scripts/generate_lmdb.py --data-dir FOLDER --output-dir LMDB [-j PROCESSES]
    python scripts/generate_lmdb.py --data-dir FOLDER --output-dir LMDB --train-list FILE --val-list FILE
    python scripts/generate_lmdb.py --data-dir FOLDER --output-dir LMDB --shorter-side 256 --on-bad-image skip
    python -m scripts.generate_lmdb --help

FOLDER is one of these, and is told by what it holds:

- train/ and val/ (or test/), each with a folder of images for each class
- ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz (needs scipy); nothing is unpacked
- the files of CIFAR-10 or CIFAR-100 (for Python or binary), of MNIST or of FashionMNIST; images become PNGs
- Caffe's LMDBs of encoded images or bare pixels, with train and val in their names
- an LMDB that this script made, to make a smaller one
- the images of two list files (see data/origins/listed.py)

The same images make the same content fingerprint, whichever of these they come from. Killed and run again with the
same flags, it goes on; nothing that is not finished can be opened by mistake.
"""

import os
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tqdm import tqdm
from tyro.conf import arg

if not __package__:  # run as a file, Python looks for modules beside it only
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.lmdb_writer import Outcome, build
from data.origins.table import Choice, open_origins
from data.stores import check_classes, open_store
from data.treatment import Treatment
from utils.errors import UsageError
from utils.script import script

FIRST_LINE, NEXT_LINES = 10.0, 60.0  # seconds after which a line says how far it is, where no one sees a bar


@dataclass(frozen=True)
class BuildConfig:
    """Build an LMDB from images as they come, train/ and val/ at once."""

    data_dir: Annotated[Path, arg(aliases=["--data-path"])]
    """folder with train/ and val/ (or test/), ILSVRC2012's tar files, or the files of CIFAR, MNIST or Caffe"""
    output_dir: Annotated[Path, arg(aliases=["--save-dir"])]
    """folder of the LMDB, made if it does not exist"""
    workers: Annotated[int, arg(aliases=["-j", "--num-workers"])] = len(os.sched_getaffinity(0))
    """processes that read and check images"""
    kind: Literal["auto", "folder", "lmdb", "tar", "cifar", "mnist", "caffe"] = "auto"
    """what --data-dir holds, where that is not clear"""
    train_list: Path | None = None
    """file of training images, a line `path label` for each, paths from --data-dir on"""
    val_list: Path | None = None
    """the same for validation"""
    class_names: Path | None = None
    """file of class names, class 0 first, one a line, for lists, MNIST and Caffe's LMDBs"""
    subset: Path | None = None
    """file of images to keep, a line class/file for each; a split of which it names none stays whole"""
    shorter_side: int | None = None
    """shrink images of which the shorter side has more pixels than this (bicubic, antialiased; encoded as JPEG)"""
    max_side: int | None = None
    """shrink images of which the longer side has more pixels than this"""
    quality: int | None = None
    """JPEG quality of shrunk images, 90 if not given; given alone, every image is encoded anew (4:2:0)"""
    on_bad_image: Literal["error", "skip", "keep"] = "error"
    """an image that cannot be decoded ends the build, is left out and listed in skipped.txt, or stays for the training
    run to deal with"""


class Progress:
    """A bar for each split where someone is watching, otherwise a line now and then."""

    def __init__(self, counts: dict[str, int]) -> None:
        """`counts`: images of each split."""
        self._bars = {
            split: tqdm(desc=split, total=count, unit=" images", position=row, disable=None)
            for row, (split, count) in enumerate(counts.items())
        }
        self._counts, self._done = counts, dict.fromkeys(counts, 0)
        self._last = self._begin = time.monotonic()
        self._since = 0  # images done when the last line was written
        self._wait = FIRST_LINE

    def advance(self, split: str, done: int) -> None:
        """`done` more images of a split are written."""
        self._bars[split].update(done)
        self._done[split] += done
        now = time.monotonic()
        if self._bars[split].disable and now - self._last >= self._wait:
            total, all_done = sum(self._counts.values()), sum(self._done.values())
            rate = (all_done - self._since) / (now - self._last)
            left = f"{(total - all_done) / rate / 60:.0f} minutes left" if rate else "none in the last minute"
            self.say(f"{split}: {self._done[split]} of {self._counts[split]} images, {rate:.0f} a second, {left}")
            self._last, self._since, self._wait = now, all_done, NEXT_LINES

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Leave the bars as they are."""
        for bar in self._bars.values():
            bar.close()


def generate(config: BuildConfig) -> None:
    """Build what `config` asks for."""
    _check(config)
    lists = (config.train_list, config.val_list)
    sources = open_origins(Choice(config.data_dir, config.kind, *lists, config.class_names, config.subset))
    check_classes(sources["train"], sources["val"])
    for origin in sources.values():
        print(origin.describe(), flush=True)
    treatment = Treatment(config.shorter_side, config.max_side, config.quality, config.on_bad_image)
    with closing(Progress({split: len(origin) for split, origin in sources.items()})) as progress:
        outcomes = build(sources, config.output_dir, config.workers, progress.advance, treatment, progress.say)
    for split, outcome in outcomes.items():
        print(f"{open_store(config.output_dir, split).describe()}{_troubles(config.output_dir / split, outcome)}")


def _check(config: BuildConfig) -> None:
    """UsageError if a number is out of its range."""
    bounds = {"workers": 1, "shorter_side": 1, "max_side": 1, "quality": 1}
    for field, least in bounds.items():
        value = getattr(config, field)
        if value is not None and value < least:
            raise UsageError(f"--{field.replace('_', '-')} {value}: must be {least} or more")
    if config.quality is not None and config.quality > 100:
        raise UsageError(f"--quality {config.quality}: must be 100 or less")


def _troubles(folder: Path, outcome: Outcome) -> str:
    """What the last line adds where images were bad."""
    skipped = f"; {outcome.skipped} bad ones left out, see {folder / 'skipped.txt'}" if outcome.skipped else ""
    kept = f"; {outcome.bad} of them cannot be decoded" if outcome.bad else ""
    return skipped + kept


if __name__ == "__main__":
    script(BuildConfig, generate)
