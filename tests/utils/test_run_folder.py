"""One run at a time in a folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.errors import UsageError
from utils.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
HOLD = "import sys, pathlib; from utils.run_folder import RunFolder\n"
HOLD += "f = RunFolder(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"


def test_second_run_of_another_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    command = [sys.executable, "-c", HOLD, str(folder)]
    holder = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=rf"--output-dir {folder} is in use by process {holder.pid} on ") as error:
            RunFolder(folder)
        assert len(str(error.value).splitlines()) == 1
    finally:
        holder.kill()  # as SIGKILL ends a run: the lock goes with the process
        holder.communicate()
    assert RunFolder(folder).path == folder


def test_second_run_of_the_same_process_is_refused(tmp_path: Path) -> None:
    held = RunFolder(tmp_path)
    for _ in range(2):
        with pytest.raises(UsageError, match=f"is in use by process {os.getpid()} on .* since"):
            RunFolder(tmp_path)
    held.lock.close()
    assert f"process {os.getpid()} " in (tmp_path / ".lock").read_text()
    RunFolder(tmp_path)
    assert (tmp_path / ".lock").read_text().count("process") == 1


def test_folder_with_checkpoints_is_refused_to_a_fresh_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.refuse_if_used()
    (tmp_path / "metrics.jsonl").touch()
    folder.refuse_if_used()
    (tmp_path / "step_00000003.pth").touch()
    with pytest.raises(UsageError, match="holds the checkpoints of a run; add --resume auto"):
        folder.refuse_if_used()


def test_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"--output-dir .*file/run cannot be written: Not a directory"):
        RunFolder(tmp_path / "file" / "run")
