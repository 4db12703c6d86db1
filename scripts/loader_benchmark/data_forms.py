"""The forms of a data set that contenders read; what is not there is made in a temporary folder, once.

The same images, in the same order of classes, in each of them: as files, in our LMDB, in webdataset's tar shards and in
FFCV's file.
"""

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

from data.lmdb_store import LmdbStore
from data.lmdb_writer import build
from data.stores import FolderStore, Store, open_store
from data.treatment import Treatment
from utils.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
SHARD = 100  # images in a tar: small samples shall have several, too
QUALITY = 90  # of the LMDBs of shrunk images
BLOCK = 1 << 22  # bytes read at once


class DataForms:
    """The training images of `data_dir`, a folder or an LMDB, in every form; new ones go to `scratch`."""

    def __init__(self, data_dir: Path, scratch: Path, processes: int) -> None:
        self.store: Store = open_store(data_dir, "train")
        self._scratch, self._processes = scratch, processes
        self._made: dict[str, Path] = {}
        if isinstance(self.store, LmdbStore):
            self._made["lmdb"] = data_dir.resolve()
        elif isinstance(self.store, FolderStore):
            self._made["folder"] = self.store.folder.resolve()
        self._makers: dict[str, Callable[[Path], Path]] = {
            "lmdb": lambda path: self._build(path, Treatment()),
            "folder": self._folder,
            "shards": self._shards,
            "beton": lambda path: self._beton(path, 0.5),
            "beton-jpeg": lambda path: self._beton(path, 1.0),
            "256": lambda path: self._build(path, Treatment(shorter_side=256, quality=QUALITY)),
            "500": lambda path: self._build(path, Treatment(max_side=500, quality=QUALITY)),
        }

    def path(self, form: str) -> Path:
        """Where the images are in this form, all of them in the page cache. DataError if it cannot be made."""
        if form not in self._made:
            self._made[form] = self._makers[form](self._scratch / form)
        _read(self._made[form])
        return self._made[form]

    def _folder(self, path: Path) -> Path:
        """Each image as a file, named by its number; whatever it is, decoders tell by its first bytes."""
        train = path / "train"
        for number, label in enumerate(self.store.labels.tolist()):
            file = train / self.store.classes[label] / f"{number:08d}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(self.store.read(number))
        return train

    def _shards(self, path: Path) -> Path:
        path.mkdir()
        for first in range(0, len(self.store), SHARD):
            with tarfile.open(path / f"{first:08d}.tar", "w") as shard:
                for number in range(first, min(first + SHARD, len(self.store))):
                    _add(shard, f"{number:08d}.jpg", self.store.read(number))
                    _add(shard, f"{number:08d}.cls", str(self.store.labels[number]).encode())
        return path

    def _beton(self, path: Path, proportion: float) -> Path:
        module = "scripts.loader_benchmark.with_ffcv"
        _run(module, str(self.path("folder")), str(path), str(proportion), str(self._processes))
        return path

    def _build(self, path: Path, treatment: Treatment) -> Path:
        build({"train": self.store}, path, self._processes, lambda split, done: None, treatment, lambda line: None)
        return path


def _add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))


def _run(module: str, *words: str) -> None:
    """Run a module. DataError with the last line that it said if it fails."""
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or f"ended with code {done.returncode}").splitlines()[-1]
        raise DataError(f"python -m {module} failed: {last}")


def _read(path: Path) -> None:
    """Read a file, or all files below a folder, so that none waits for the disk when it is measured."""
    files = [path] if path.is_file() else [Path(where, name) for where, _, names in os.walk(path) for name in names]
    for name in files:
        with open(name, "rb", buffering=0) as file:
            while file.read(BLOCK):
                pass
