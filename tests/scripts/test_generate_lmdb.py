"""generate_lmdb from the command line: built, killed, run again, and refused."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.stores import open_store
from scripts.generate_lmdb import BuildConfig, generate
from utils.errors import DataError, TrainingError
from utils.script import run_script

ROOT = Path(__file__).resolve().parents[2]


class Build:
    """The script in a process of its own, forked to save the seconds that torch takes to import."""

    def __init__(self, source: Path, target: Path, limit: int = resource.RLIM_INFINITY) -> None:
        """`limit`: bytes beyond which no file may grow."""
        self.log = source.parent / "errors.txt"
        words = ["generate_lmdb.py", "--data-dir", str(source), "--output-dir", str(target), "-j", "2"]
        self.process = multiprocessing.get_context("fork").Process(target=self._run, args=(words, limit))
        self.process.start()

    def _run(self, words: list[str], limit: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with open(self.log, "w", buffering=1) as sys.stderr:
            sys.argv = words
            sys.exit(run_script(BuildConfig, generate, sys.argv[1:]))

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def ended(self) -> tuple[int | None, str]:
        """Exit code and errors, once the process has ended."""
        self.process.join(60)
        return self.process.exitcode, self.log.read_text()


def wait_for(path: Path, size: int, build: Build) -> None:
    """Wait until `path` has `size` bytes or the build has ended."""
    while build.process.is_alive():
        with suppress(FileNotFoundError):  # a rerun removes what the killed one left
            if path.stat().st_size >= size:
                return
        time.sleep(0.002)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """1,600 training and 20 validation images of noise in two classes, 20 KB each."""
    noise = np.random.default_rng(0).integers(256, size=(2, 150, 150, 3), dtype=np.uint8)
    for split, count in (("train", 800), ("val", 10)):
        for label, pixels in zip("ab", noise, strict=True):
            folder = tmp_path / "source" / split / label
            folder.mkdir(parents=True)
            Image.fromarray(pixels).save(folder / "0.jpg")
            encoded = (folder / "0.jpg").read_bytes()
            for number in range(1, count):
                (folder / f"{number}.jpg").write_bytes(encoded)
    return tmp_path / "source"


def contents(data_dir: Path) -> list[str]:
    return [open_store(data_dir, split).identity()["content"] for split in ("train", "val")]


def test_killed_builds_look_unfinished_and_a_rerun_equals_an_undisturbed_build(source: Path, tmp_path: Path):
    target = tmp_path / "lmdb"
    for size in (1, 4_000_000, 12_000_000):  # bytes written when the kill comes
        build = Build(source, target)
        wait_for(target / "train" / "data.mdb", size, build)
        build.send(signal.SIGKILL)
        assert build.ended()[0] == -9, "the build ended before it could be killed"
        for split in ("train", "val"):
            with pytest.raises(TrainingError, match=r"unfinished|truncated|half a build|has no val") as caught:
                open_store(target, split)
            assert "\n" not in str(caught.value)
    assert Build(source, target).ended() == (0, "")
    assert Build(source, tmp_path / "other").ended() == (0, "")
    assert contents(target) == contents(tmp_path / "other")
    assert sorted(path.name for path in (target / "train").iterdir()) == ["data.mdb", "index.npy", "meta.json"]


@pytest.mark.parametrize(
    ("form", "folder"),
    [([str(ROOT / "scripts" / "generate_lmdb.py")], "/"), (["-m", "scripts.generate_lmdb"], str(ROOT))],
    ids=["as a file", "as a module"],
)
def test_script_runs_as_a_file_and_as_a_module_with_its_aliases(
    form: list[str], folder: str, source: Path, tmp_path: Path
):
    words = [sys.executable, *form, "--data-path", str(source), "--save-dir", str(tmp_path / "lmdb"), "-j", "1"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "train: 1600 images of 2 classes" in done.stdout and len(open_store(tmp_path / "lmdb", "val")) == 20


def remove_images(source: Path) -> None:
    for path in (source / "val" / "b").iterdir():
        path.unlink()


FAULTS: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "truncated image": (
        lambda source: (source / "train" / "b" / "7.jpg").write_bytes(b"\xff\xd8\xff\xe0"),
        3,
        "train/b/7.jpg",
    ),
    "class missing in val": (lambda source: (source / "val" / "b").rename(source / "b"), 2, "missing b"),
    "empty class": (remove_images, 3, "val/b holds no images"),
    "no val": (lambda source: (source / "val").rename(source / "other"), 2, "has no val/ or test/"),
    "no data": (lambda source: source.rename(source.parent / "other"), 2, "no data set at"),
}


@pytest.mark.parametrize(("damage", "code", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_faults_end_with_one_line_and_their_code(
    damage: Callable[[Path], object],
    code: int,
    message: str,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    damage(source)
    target = source.parent / "lmdb"
    monkeypatch.setattr(sys, "argv", ["generate_lmdb.py", "--data-dir", str(source), "--output-dir", str(target)])
    assert run_script(BuildConfig, generate, sys.argv[1:]) == code
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and message in errors and errors.count("\n") == 1
    assert not list(target.glob("*/meta.json"))


def test_a_full_disk_ends_with_one_line_and_nothing_that_looks_finished(source: Path, tmp_path: Path):
    target = tmp_path / "lmdb"
    code, errors = Build(source, target, limit=5_000_000).ended()
    assert code == 3
    assert "lmdb cannot be written" in errors and "MiB are free" in errors and errors.count("\n") == 1
    with pytest.raises(DataError, match="unfinished"):
        open_store(target, "train")


def test_a_second_build_is_refused_while_one_runs_and_when_it_is_finished(source: Path, tmp_path: Path):
    target = tmp_path / "lmdb"
    first = Build(source, target)
    wait_for(target / "train" / "data.mdb", 1, first)
    first.send(signal.SIGSTOP)
    code, errors = Build(source, target).ended()
    first.send(signal.SIGCONT)
    assert code == 2 and "another build" in errors
    assert first.ended()[0] == 0
    code, errors = Build(source, target).ended()
    assert code == 2 and "finished LMDB" in errors and len(open_store(target, "train")) == 1600
