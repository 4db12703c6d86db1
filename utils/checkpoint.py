"""Checkpoints that are whole or do not exist.

`step_00001234.pth` is written under another name, flushed and renamed; then its manifest `step_00001234.json`, with
size and sha256, the same way. A file without a manifest is not a checkpoint. `torch.load` does not check the sums that
the format carries (of 400 single flipped bits 399 loaded silently), so the manifest's sum is checked before loading.
Only tensors and plain types are stored, and read with an explicit weights_only=True: an environment variable can flip
the default.
"""

import hashlib
import json
import os
import pickle
import shutil
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from utils.errors import CheckpointError
from utils.files import link_atomically, sync_folder, write_atomically, write_json

FORMAT = 1
NEWEST_KEPT = 2
STAGED = ".staged"  # whole, and not yet under its name
STEP_FILE = "step_{:08d}.pth"
PLAIN = (str, int, float, bool, type(None))
State = dict[str, object]


class _Hashing:
    """A file object that sums what passes through it, so that the file is not read again."""

    def __init__(self, file: BinaryIO):
        self.file, self.sum, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.sum.update(data)
        self.size += len(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


@dataclass(frozen=True)
class Found:
    """A checkpoint that was looked at: its content, and the newer ones that were passed over, each with the reason."""

    path: Path
    state: State
    passed_over: tuple[str, ...] = ()


def manifest_of(path: Path) -> Path:
    return path.with_suffix(".json")


def save_checkpoint(folder: Path, step: int, state: State) -> Path:
    """Write the state as the checkpoint of `step`. CheckpointError if the disk does not take it; none is lost then."""
    _check_plain(state, "state")
    path = folder / STEP_FILE.format(step)
    try:
        _check_space(folder)
        _write(path, step, state)
        link_atomically(folder / "last.pth", path)
    except (OSError, RuntimeError) as error:
        raise _unwritten(path, error) from error
    return path


def _write(path: Path, step: int, state: State) -> None:
    """Both files are on the disk under other names before the first of them is moved: where the step was saved before,
    a full disk leaves that checkpoint as it is."""
    manifest: dict[str, object] = {"format": FORMAT, "step": step}

    def write(file: BinaryIO) -> None:
        hashing = _Hashing(file)
        torch.save(state, hashing)  # through an object: a path would be stored in the file
        manifest.update(size=hashing.size, sha256=hashing.sum.hexdigest())

    staged, staged_manifest = path.with_name(f"{path.name}{STAGED}"), path.with_name(f"{path.stem}.json{STAGED}")
    try:
        write_atomically(staged, write)
        write_json(staged_manifest, manifest)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    manifest_of(path).unlink(missing_ok=True)
    os.replace(staged, path)
    sync_folder(path.parent)
    os.replace(staged_manifest, manifest_of(path))
    sync_folder(path.parent)


def _unwritten(path: Path, error: Exception) -> CheckpointError:
    reason = error.__context__ if isinstance(error.__context__, OSError) else error  # torch hides the disk's words
    free = _mebibytes(shutil.disk_usage(path.parent).free)
    words = f"{path} could not be written: {_on_one_line(reason)}; {free} are free; the checkpoints before it are whole"
    return CheckpointError(words)


def _check_plain(value: object, where: str) -> None:
    """TypeError for what weights_only would refuse to load, at the first save and not at the first resume."""
    if type(value) in (dict, OrderedDict):
        for key, part in value.items():
            _check_plain(key, where)
            _check_plain(part, f"{where}.{key}")
    elif type(value) in (list, tuple):
        for part in value:
            _check_plain(part, where)
    elif type(value) not in (*PLAIN, torch.Tensor, torch.nn.Parameter):
        raise TypeError(f"{where} is a {type(value).__name__}, which a checkpoint must not hold")


def _check_space(folder: Path) -> None:
    """Refuse before writing where the newest checkpoint's size, and a tenth, is not free."""
    sizes = [path.stat().st_size for path in sorted(folder.glob("step_*.pth"))[-1:]]
    free = shutil.disk_usage(folder).free
    if sizes and free < 1.1 * sizes[0]:
        need, have = _mebibytes(1.1 * sizes[0]), _mebibytes(free)
        raise CheckpointError(f"no space for a checkpoint in {folder}: need {need}, have {have}; make room")


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _on_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


class Keeper:
    """Saves the checkpoints of one run, and remembers a save that failed: training goes on without it."""

    def __init__(self, folder: Path, keep_epochs: int):
        self.folder, self.keep_epochs = folder, keep_epochs
        self.failed: CheckpointError | None = None

    def save(self, step: int, state: State, is_best: bool, end_of_epoch: bool) -> None:
        """Write a checkpoint, as best.pth and epoch_0042.pth too where it is one to keep, and remove old ones."""
        try:
            path = save_checkpoint(self.folder, step, state)
            if is_best:
                link_atomically(self.folder / "best.pth", path)
            if end_of_epoch and self.keep_epochs and int(state["epoch"]) % self.keep_epochs == 0:
                link_atomically(self.folder / f"epoch_{state['epoch']:04d}.pth", path)
            prune(self.folder)
        except CheckpointError as error:
            self.failed = error
        except OSError as error:
            self.failed = _unwritten(self.folder / "best.pth", error)
        else:
            self.failed = None


def prune(folder: Path) -> None:
    """Remove all checkpoints but the two newest and those that a link names, and what a killed save left."""
    kept = {link.resolve().name for link in folder.glob("*.pth") if link.is_symlink()}
    whole = [path for path in sorted(folder.glob("step_*.pth")) if manifest_of(path).exists()]
    for path in whole[:-NEWEST_KEPT]:
        if path.name not in kept:
            manifest_of(path).unlink()
            path.unlink()
    halves = [path for path in folder.glob("step_*.pth") if not manifest_of(path).exists()]
    for leftover in (*halves, *folder.glob("*.tmp"), *folder.glob(f"*{STAGED}")):
        leftover.unlink()


def find_newest(folder: Path) -> Found | None:
    """The newest good checkpoint of a run, or None if it has none. CheckpointError if it has some and all are bad."""
    passed_over: list[str] = []
    for path in sorted(folder.glob("step_*.pth"), reverse=True):
        if not manifest_of(path).exists():
            continue  # killed between the file and its manifest: it never existed
        try:
            return Found(path, load_checkpoint(path), tuple(passed_over))
        except CheckpointError as error:
            passed_over.append(str(error))
    if passed_over:
        raise CheckpointError(f"no checkpoint in {folder} is good: {'; '.join(passed_over)}")
    return None


def find_checkpoint(resume: str | None, folder: Path) -> Found | None:
    """What --resume asks for: nothing, the newest good one of `folder`, or the one at a path."""
    if resume is None:
        return None
    return find_newest(folder) if resume == "auto" else Found(Path(resume), load_checkpoint(Path(resume)))


def load_checkpoint(path: Path) -> State:
    """The state in a checkpoint of this trainer, its sum checked first. CheckpointError if anything is off."""
    path = path.resolve()  # links such as last.pth have no manifest of their own
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}; give a file such as RUN/last.pth")
    _check_sum(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, OSError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of this trainer ({type(error).__name__})") from error
    if not isinstance(state, dict) or "format" not in state or "state_dict" not in state:
        raise CheckpointError(f"{path} is not a checkpoint of this trainer: it has no format and state_dict")
    if state["format"] > FORMAT:
        raise CheckpointError(f"{path} has format {state['format']}, this version reads up to {FORMAT}; update it")
    return state


def _check_sum(path: Path) -> None:
    try:
        manifest = json.loads(manifest_of(path).read_text())
        size, wanted = manifest["size"], manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} has no readable manifest {manifest_of(path).name}; use another one") from error
    if path.stat().st_size != size:
        raise CheckpointError(f"{path} is damaged: it has {path.stat().st_size} bytes, {size} were written")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted:
        raise CheckpointError(f"{path} is damaged: its sha256 is {found[:12]}, {wanted[:12]} was written")
