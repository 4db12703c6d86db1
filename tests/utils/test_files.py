"""Files that are whole or absent."""

import errno
import json
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from utils.files import link_atomically, write_atomically, write_json


def failing(file: BinaryIO) -> None:
    file.write(b"half of it")
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_failed_write_leaves_the_old_file_and_nothing_else(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_bytes(b"old")

    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise error

    with pytest.raises(error):
        write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["status.json"]


def test_failed_first_write_leaves_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "new", failing)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failed_flush_or_rename_leaves_the_old_file(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, step, refuse)
    with pytest.raises(OSError, match="Input/output"):
        write_atomically(path, lambda file: file.write(b"new"))
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_file_appears_only_once_it_is_whole_and_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "file", []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        seen.append((os.path.isdir(f"/proc/self/fd/{descriptor}"), path.exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(path, lambda file: file.write(b"whole"))
    assert seen == [(False, False), (True, True)]  # the file before its name, then the folder after
    assert path.read_bytes() == b"whole"


def test_json_is_what_was_given(tmp_path: Path) -> None:
    content = {"state": "done", "step": 3, "none": None, "name": "é\n"}
    write_json(tmp_path / "x.json", content)
    assert json.loads((tmp_path / "x.json").read_text()) == content


def test_link_is_replaced_in_one_move_and_stays_valid_where_the_folder_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_text(name)
    link = folder / "last"
    (folder / "last.tmp").symlink_to("nowhere")  # of a run that was killed
    link_atomically(link, folder / "a")
    real, during = os.replace, []

    def replace(source: Path, target: Path) -> None:
        during.append(link.read_text())
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    link_atomically(link, folder / "b")
    assert during == ["a"]  # it never does not exist
    folder.rename(tmp_path / "moved")
    moved = tmp_path / "moved"
    assert (moved / "last").read_text() == "b"
    assert sorted(os.listdir(moved)) == ["a", "b", "last"]
