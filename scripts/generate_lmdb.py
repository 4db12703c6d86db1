"""Builds an LMDB from an image folder, train/ and val/ at once, checking every image by decoding it.

    python scripts/generate_lmdb.py --data-dir FOLDER --output-dir LMDB [-j PROCESSES]
    python -m scripts.generate_lmdb --data-dir FOLDER --output-dir LMDB [-j PROCESSES]

FOLDER holds train/ and val/ (or test/), each with a folder of images for each class. Killed and run again, it starts
anew; nothing that is not finished can be opened by mistake.
"""

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tqdm import tqdm
from tyro.conf import arg

if not __package__:  # run as a file, Python looks for modules beside it only
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.lmdb_writer import build
from data.stores import check_classes, open_store
from utils.errors import UsageError
from utils.script import script


@dataclass(frozen=True)
class BuildConfig:
    """Build an LMDB from an image folder, train/ and val/ at once."""

    data_dir: Annotated[Path, arg(aliases=["--data-path"])]
    """folder with train/ and val/ (or test/)"""
    output_dir: Annotated[Path, arg(aliases=["--save-dir"])]
    """folder of the LMDB, made if it does not exist"""
    workers: Annotated[int, arg(aliases=["-j", "--num-workers"])] = len(os.sched_getaffinity(0))
    """processes that read and check images"""


def generate(config: BuildConfig) -> None:
    """Build what `config` asks for, with a bar for each split where someone is watching."""
    if config.workers < 1:
        raise UsageError(f"--workers {config.workers}: must be 1 or more")
    sources = {"train": open_store(config.data_dir, "train"), "val": open_store(config.data_dir, "val")}
    check_classes(sources["train"], sources["val"])
    for store in sources.values():
        print(store.describe())
    with ExitStack() as bars:
        progress = {
            split: bars.enter_context(tqdm(desc=split, total=len(store), unit=" images", position=row, disable=None))
            for row, (split, store) in enumerate(sources.items())
        }
        build(sources, config.output_dir, config.workers, lambda split, done: progress[split].update(done))
    for split in sources:
        print(open_store(config.output_dir, split).describe())


if __name__ == "__main__":
    script(BuildConfig, generate)
