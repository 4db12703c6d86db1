"""generate_lmdb from the command line: built, killed, run again, and refused."""

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.stores import open_store
from scripts.generate_lmdb import main
from utils.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
AS_FILE, AS_MODULE = [str(ROOT / "scripts" / "generate_lmdb.py")], ["-m", "scripts.generate_lmdb"]


def start(*arguments: str | Path, form: list[str] = AS_FILE, limit: int = resource.RLIM_INFINITY) -> subprocess.Popen:
    """Run the script; no file may grow beyond `limit` bytes."""
    return subprocess.Popen(
        [sys.executable, *form, *map(str, arguments)],
        cwd=ROOT if form == AS_MODULE else "/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    """Exit code, output and errors of a process."""
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


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
    target, data = tmp_path / "lmdb", tmp_path / "lmdb" / "train" / "data.mdb"
    for size in (1, 8_000_000):  # bytes written when the kill comes
        process = start("--data-dir", source, "--output-dir", target, "-j", 2)
        while process.poll() is None and not (data.exists() and data.stat().st_size >= size):
            time.sleep(0.005)
        process.kill()
        assert ended(process)[0] == -9, "the build ended before it could be killed"
        for split in ("train", "val"):
            with pytest.raises(Exception, match=r"unfinished|truncated|half a build|has no val") as caught:
                open_store(target, split)
            assert "\n" not in str(caught.value)
    assert ended(start("--data-dir", source, "--output-dir", target, "-j", 2))[0] == 0
    assert ended(start("--data-path", source, "--save-dir", tmp_path / "other", form=AS_MODULE))[0] == 0
    assert contents(target) == contents(tmp_path / "other")
    assert sorted(path.name for path in (target / "train").iterdir()) == ["data.mdb", "index.npy", "meta.json"]


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
    assert main() == code
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and message in errors and errors.count("\n") == 1
    assert not list(target.glob("*/meta.json"))


def test_a_full_disk_ends_with_one_line_and_nothing_that_looks_finished(source: Path, tmp_path: Path):
    target = tmp_path / "lmdb"
    code, _, errors = ended(start("--data-dir", source, "--output-dir", target, limit=5_000_000))
    assert code == 3
    assert "train cannot be written" in errors and "MiB are free" in errors and errors.count("\n") == 1
    with pytest.raises(DataError, match="unfinished"):
        open_store(target, "train")


def test_a_second_build_of_the_same_lmdb_is_refused_while_one_runs_and_when_it_is_finished(
    source: Path, tmp_path: Path
):
    target = tmp_path / "lmdb"
    first = start("--data-dir", source, "--output-dir", target, "-j", 1)
    while not (target / "train" / "data.mdb").exists():
        time.sleep(0.005)
    first.send_signal(signal.SIGSTOP)
    code, _, errors = ended(start("--data-dir", source, "--output-dir", target))
    assert code == 2 and "another build" in errors
    first.send_signal(signal.SIGCONT)
    assert ended(first)[0] == 0
    code, _, errors = ended(start("--data-dir", source, "--output-dir", target))
    assert code == 2 and "finished LMDB" in errors and len(open_store(target, "train")) == 1600
