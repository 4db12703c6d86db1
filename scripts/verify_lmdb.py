"""Checks an LMDB to its last byte, and measures what is in it.

    python -m scripts.verify_lmdb --data-dir LMDB [-j PROCESSES]
    python -m scripts.verify_lmdb --data-dir LMDB --no-decode       # as fast as the disk; measures no colours
    python -m scripts.verify_lmdb --data-dir LMDB --classes         # how many images each class has

Of each split it compares counts, fingerprint, the pages of data.mdb (which it reads without LMDB's engine, for that
dies on damaged ones), the checksum, label and size of every record, and decodes every image. The exit code is 3 where
anything is wrong, and each wrong thing is a line.

Mean and standard deviation of the channels are kept in meta.json, and from then on what a run normalizes by, unless it
is given --mean and --std. A run that was begun before goes on only with those that it began with: name them. The
deviation is that of all pixels; ImageNet's usual 0.229 0.224 0.225 are smaller, being means over single images.
"""

import dataclasses
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm
from tyro.conf import arg

from data.batches import Channels
from data.channels import count_values, mean_and_std
from data.lmdb_format import DATA, fingerprint, key, write_meta
from data.lmdb_pages import places, read_head
from data.lmdb_store import LmdbStore
from data.pixels import decode, probe
from data.stores import check_classes, open_store
from data.workers import in_order
from utils.errors import DataError, UsageError
from utils.script import script

CHUNK = 32  # images a worker checks at once
LISTED = 20  # wrong things that are printed before it is said how many more there are
SHARES = (0, 5, 50, 95, 100)  # percent of the images that are no larger than what is printed


@dataclass(frozen=True)
class VerifyConfig:
    """Check an LMDB to its last byte, and measure what is in it."""

    data_dir: Annotated[Path, arg(aliases=["--data-path"])]
    """LMDB with train/ and val/"""
    workers: Annotated[int, arg(aliases=["-j", "--num-workers"])] = len(os.sched_getaffinity(0))
    """processes that read and decode images; 0 takes none but this one"""
    no_decode: bool = False
    """check pages and checksums, but decode nothing"""
    classes: bool = False
    """print how many images each class has"""


@dataclass
class Findings:
    """What was found in some images: a line for each that is wrong, and how often each value occurs (3, 256)."""

    damages: list[str] = field(default_factory=list)
    values: NDArray[np.int64] = field(default_factory=lambda: np.zeros((3, 256), dtype=np.int64))
    kept: int = 0  # cannot be decoded, as was known when the LMDB was built

    def add(self, other: "Findings") -> None:
        """Take in what was found elsewhere."""
        self.damages += other.damages
        self.values += other.values
        self.kept += other.kept


def check_pages(store: LmdbStore) -> list[str]:
    """A line for each page of data.mdb that is not what it was, and for each record that is not where index.npy says.

    Our reader would not notice: it goes by index.npy. LMDB's engine, which Caffe's and DALI's readers use, would.
    """
    path, damages = store.folder / DATA, []
    reached = np.zeros(len(store), dtype=np.bool_)
    for place in places(path, damages):
        number = int(place.key) if place.key.isdigit() else len(store)
        if number >= len(store) or place.key != key(number):
            damages.append(f"{path} is damaged: it has a record {place.key!r}")
            continue
        reached[number] = True
        if (place.offset, place.length) != store.place(number):
            damages.append(f"{store.name(number)} is not where index.npy says; build it again")
    if not reached.all():
        first, missing = store.name(int((~reached).argmax())), np.count_nonzero(~reached)
        damages.append(f"{path} is damaged: its pages do not lead to {missing} records, such as {first}")
    if flags := read_head(path).flags:
        damages.append(f"{path} is damaged: its keys would be of kind {flags}, expected 0")
    return damages


def check_images(store: LmdbStore, decodes: bool, first: int) -> Findings:
    """What is wrong with CHUNK images from `first` on."""
    findings = Findings()
    for index in range(first, min(first + CHUNK, len(store))):
        try:
            encoded = store.read_record(index)
            if store.index["width"][index] == 0:
                findings.kept += 1
            elif decodes:
                findings.values += _values(store, index, encoded)
        except DataError as error:
            findings.damages.append(str(error))
    return findings


def _values(store: LmdbStore, index: int, encoded: bytes) -> NDArray[np.int64]:
    name, row = store.name(index), store.index[index]
    image = decode(probe(encoded, name), name)
    if image.size != (row["width"], row["height"]):
        found = f"{image.width} x {image.height} pixels, index.npy says {row['width']} x {row['height']}"
        raise DataError(f"{name} has {found}; build it again")
    return count_values(image)


def check_split(store: LmdbStore, split: str, config: VerifyConfig) -> Findings:
    """Everything that is to be found in a split, with a bar where someone is watching."""
    findings = Findings(check_pages(store))
    if (found := fingerprint(store.classes, store.index)) != store.meta.fingerprint:
        findings.damages.append(f"{store.folder} has fingerprint {found}, meta.json says {store.meta.fingerprint}")
    work = partial(check_images, store, not config.no_decode)
    with tqdm(desc=split, total=len(store), unit=" images", disable=None) as bar:
        for first, chunk in enumerate(in_order(work, range(0, len(store), CHUNK), config.workers)):
            findings.add(chunk)
            bar.update(min(CHUNK, len(store) - first * CHUNK))
    return findings


def keep_channels(store: LmdbStore, findings: Findings) -> dict[str, str]:
    """Measure mean and standard deviation of the channels, and keep them in meta.json: what is printed of that."""
    mean, std = mean_and_std(findings.values)
    if findings.damages:
        kept = "not kept, for something is wrong"
    elif min(std) == 0:
        kept = "not kept, for a channel has one value only"
    else:
        kept = _keep(store, mean, std)
    return {"mean": " ".join(map(str, mean)), "std": f"{' '.join(map(str, std))}, {kept}"}


def _keep(store: LmdbStore, mean: Channels, std: Channels) -> str:
    try:
        write_meta(store.folder, dataclasses.replace(store.meta, mean=mean, std=std))
    except OSError as error:
        return f"not kept, for meta.json cannot be written: {error.strerror}"
    return "kept in meta.json"


def class_table(store: LmdbStore) -> list[str]:
    """A line for each class: its number, its images, its name."""
    counts = np.bincount(store.labels, minlength=len(store.classes)).tolist()
    return [f"  {number:5} {count:8}  {store.classes[number]}" for number, count in enumerate(counts)]


def facts(store: LmdbStore, findings: Findings) -> dict[str, str]:
    """What is printed of a split that could be opened, but for its channels."""
    counts = np.bincount(store.labels, minlength=len(store.classes))
    least, most = int(counts.argmin()), int(counts.argmax())
    smallest, largest = (f"{counts[number]} ({store.classes[number]})" for number in (least, most))
    sizes = store.index[store.index["width"] > 0]
    return {
        "classes": f"{len(counts)}, from {smallest} to {largest} images",
        **{name: " ".join(map(str, _quantiles(sizes[name]))) for name in ("width", "height", "bytes") if len(sizes)},
        "fingerprint": store.meta.fingerprint,
        "undecodable": f"{findings.kept} images, kept on purpose when the LMDB was built" if findings.kept else "none",
        "damage": f"{len(findings.damages)} found" if findings.damages else "none",
    }


def _quantiles(sizes: NDArray[np.uint32]) -> list[int]:
    return np.percentile(sizes, SHARES, method="nearest").tolist()


def verify(config: VerifyConfig) -> int:
    """Check what `config` asks for, print what was found, and come back with the exit code."""
    if config.workers < 0:
        raise UsageError(f"--workers {config.workers}: must be 0 or more")
    damages: list[str] = []
    stores: list[LmdbStore] = []
    for split in ("train", "val"):
        try:
            store = _open(config.data_dir, split)
        except DataError as error:
            print(f"{split}: cannot be opened")
            damages.append(str(error))
            continue
        stores.append(store)
        findings = check_split(store, split, config)
        _print(split, store, findings, config.classes)
        damages += findings.damages
    if len(stores) == 2:
        check_classes(*stores)
    for line in damages[:LISTED]:
        print(f"wrong: {line}")
    if len(damages) > LISTED:
        print(f"wrong: and {len(damages) - LISTED} more")
    return DataError.exit_code if damages else 0


def _open(data_dir: Path, split: Literal["train", "val"]) -> LmdbStore:
    store = open_store(data_dir, split)
    if not isinstance(store, LmdbStore):
        raise UsageError(f"{data_dir} is an image folder, no LMDB; --data-dir takes what generate_lmdb has made")
    return store


def _print(split: str, store: LmdbStore, findings: Findings, classes: bool) -> None:
    print(f"{split}: {store.describe()}")
    print("  of width, height and bytes: the least, those that 5, 50 and 95 % of the images do not exceed, the most")
    channels = keep_channels(store, findings) if findings.values.any() else {}
    for name, fact in (facts(store, findings) | channels).items():
        print(f"  {name:12} {fact}")
    if classes:
        print("\n".join(class_table(store)))


if __name__ == "__main__":
    script(VerifyConfig, verify)
