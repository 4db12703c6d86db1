"""generate_lmdb from the command line: built from each kind of data set, killed, run again, and refused."""

import gzip
import io
import multiprocessing
import os
import resource
import signal
import struct
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.stores import open_store
from scripts.generate_lmdb import BuildConfig, Progress, generate
from utils.errors import DataError, TrainingError
from utils.script import run_script

ROOT = Path(__file__).resolve().parents[2]


class Build:
    """The script in a process of its own, forked to save the seconds that torch takes to import."""

    def __init__(self, source: Path, target: Path, limit: int = resource.RLIM_INFINITY) -> None:
        """`limit`: bytes beyond which no file may grow."""
        self.log, self.said = source.parent / "errors.txt", source.parent / "said.txt"
        words = ["generate_lmdb.py", "--data-dir", str(source), "--output-dir", str(target), "-j", "2"]
        self.process = multiprocessing.get_context("fork").Process(target=self._run, args=(words, limit))
        self.process.start()

    def _run(self, words: list[str], limit: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with open(self.log, "w", buffering=1) as sys.stderr, open(self.said, "w", buffering=1) as sys.stdout:
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
    for size in (1, 9_000_000, 18_000_000):  # bytes written when the kill comes
        build = Build(source, target)
        wait_for(target / "train" / "data.mdb", size, build)
        build.send(signal.SIGKILL)
        assert build.ended()[0] == -9, "the build ended before it could be killed"
        for split in ("train", "val"):
            with pytest.raises(TrainingError, match=r"unfinished|truncated|half a build|has no val") as caught:
                open_store(target, split)
            assert "\n" not in str(caught.value)
    last = Build(source, target)
    assert last.ended() == (0, "") and "train is an unfinished build, going on after" in last.said.read_text()
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


def run(*words: object) -> int:
    """The exit code of the script with these flags."""
    sys.argv = ["generate_lmdb.py"]
    return run_script(BuildConfig, generate, [str(word) for word in words])


def tar_of(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return made.getvalue()


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """folder/ of four images in two classes with WordNet numbers, tars/ with ILSVRC2012's files of them, and lists."""
    savemat = pytest.importorskip("scipy.io").savemat
    train: dict[str, dict[str, bytes]] = {"n02": {}, "n01": {}}
    val = {}
    for number, (wnid, files) in enumerate(2 * list(train.items())):
        file = io.BytesIO()
        Image.new("RGB", (90 + number, 70), (60 * number, 9, 200)).save(file, "JPEG")
        files[f"{wnid}_{9 - number}.JPEG"] = file.getvalue()
        val[f"ILSVRC2012_val_{number:08d}.JPEG"] = wnid, file.getvalue()
    lists: dict[str, list[str]] = {"train": [], "val": []}
    images = [("train", wnid, name, data) for wnid, files in train.items() for name, data in files.items()]
    for split, wnid, name, data in images + [("val", wnid, name, data) for name, (wnid, data) in val.items()]:
        path = tmp_path / "folder" / split / wnid / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        lists[split].append(f"{split}/{wnid}/{name} {int(wnid == 'n02')}\n")
    for split, lines in lists.items():
        (tmp_path / f"{split}.txt").write_text("".join(lines))
    rows = np.array(
        [(1.0, "n02", 0.0), (2.0, "n01", 0.0)], dtype=[(f, "O") for f in ("ILSVRC2012_ID", "WNID", "num_children")]
    )
    mat = io.BytesIO()
    savemat(mat, {"synsets": rows.reshape(-1, 1)})
    truth = "".join("1\n" if wnid == "n02" else "2\n" for _, (wnid, _) in sorted(val.items()))
    kit = {"k/data/meta.mat": mat.getvalue(), "k/data/ILSVRC2012_validation_ground_truth.txt": truth.encode()}
    (tmp_path / "tars").mkdir()
    for name, content in {
        "img_train.tar": tar_of({f"{wnid}.tar": tar_of(files) for wnid, files in train.items()}),
        "img_val.tar": tar_of({name: data for name, (_, data) in val.items()}),
        "devkit_t12.tar.gz": gzip.compress(tar_of(kit)),
    }.items():
        (tmp_path / "tars" / f"ILSVRC2012_{name}").write_bytes(content)
    return tmp_path


def test_tars_lists_and_folder_make_the_same_lmdb(published: Path):
    lists = ("--train-list", published / "train.txt", "--val-list", published / "val.txt")
    forms = {"folder": (published / "folder",), "tars": (published / "tars",), "lists": (published / "folder", *lists)}
    for name, words in forms.items():
        assert run("--data-dir", *words, "--output-dir", published / f"{name}.made", "-j", 1) == 0
    made = [contents(published / f"{name}.made") for name in forms]
    assert made[0] == made[1] == made[2]
    listings = [open_store(published / f"{name}.made", "val").identity()["listing"] for name in forms]
    assert set(listings) == {open_store(published / "folder", "val").identity()["listing"]}
    assert open_store(published / "tars.made", "train").classes == ("n01", "n02")


def test_mnist_and_its_class_names(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(256, size=(20, 28, 28), dtype=np.uint8)
    for name in ("train", "t10k"):
        images = struct.pack(">4I", 0x803, 20, 28, 28) + pixels.tobytes()
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        labels = struct.pack(">2I", 0x801, 20) + bytes(number % 3 for number in range(20))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    (tmp_path / "names.txt").write_text("top\ntrouser\npullover\n")
    words = ("--data-dir", tmp_path, "--output-dir", tmp_path / "lmdb", "-j", 1)
    assert run(*words, "--class-names", tmp_path / "names.txt") == 0
    store = open_store(tmp_path / "lmdb", "val")
    assert store.classes == ("top", "trouser", "pullover")
    for index, number in enumerate([*range(0, 20, 3), *range(1, 20, 3), *range(2, 20, 3)]):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(store.read(index)))), pixels[number])


def test_images_shrink_bad_ones_are_left_out_and_the_last_line_says_so(
    published: Path, capsys: pytest.CaptureFixture[str]
):
    (published / "folder/train/n01/n01_8.JPEG").write_bytes(b"")
    words = ("--data-dir", published / "folder", "--output-dir", published / "lmdb", "-j", 1)
    assert run(*words, "--shorter-side", 32, "--on-bad-image", "skip") == 0
    last = capsys.readouterr().out.splitlines()[-2]
    assert "3 images of 2 classes; 1 bad ones left out" in last and "train/skipped.txt" in last
    store = open_store(published / "lmdb", "train")
    assert [min(Image.open(io.BytesIO(store.read(index))).size) for index in range(3)] == [32, 32, 32]


def test_a_subset_is_built(published: Path):
    (published / "subset.txt").write_text("n02/n02_9.JPEG\n")
    words = ("--data-dir", published / "folder", "--output-dir", published / "lmdb", "-j", 1)
    assert run(*words, "--subset", published / "subset.txt") == 0
    assert [len(open_store(published / "lmdb", split)) for split in ("train", "val")] == [1, 4]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--quality", 0], "--quality 0: must be 1 or more"),
        (["--quality", 101], "--quality 101: must be 100 or less"),
        (["--shorter-side", 0], "--shorter-side 0"),
        (["--max-side", -1], "--max-side -1"),
        (["-j", 0], "--workers 0"),
        (["--train-list", "x"], "go together"),
    ],
)
def test_flags_out_of_range_are_refused(words: list, message: str, published: Path, capsys: pytest.CaptureFixture[str]):
    assert run("--data-dir", published / "folder", "--output-dir", published / "lmdb", *words) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1 and not (published / "lmdb").exists()


def test_without_a_terminal_a_line_says_now_and_then_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    progress = Progress({"train": 9000, "val": 600})
    for second in range(1, 95):
        clock[0] = float(second)
        progress.advance("train", 40)
    progress.close()
    lines = [
        "train: 400 of 9000 images, 40 a second, 4 minutes left",
        "train: 2800 of 9000 images, 40 a second, 3 minutes left",
    ]
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
def test_a_disk_that_is_too_small_is_refused_and_one_that_fills_up_ends_with_one_line(source: Path, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mount is not allowed here")
    try:
        code, errors = Build(source, disk / "lmdb").ended()
        assert code == 3 and "needs 26 MiB" in errors and "make room" in errors and errors.count("\n") == 1
        subprocess.run(["mount", "-o", "remount,size=45m", str(disk)], check=True)
        build = Build(source, disk / "lmdb")
        wait_for(disk / "lmdb" / "train" / "journal.bin", 1, build)
        build.send(signal.SIGSTOP)
        with suppress(OSError):
            (disk / "filling").write_bytes(bytes(60 << 20))
        build.send(signal.SIGCONT)
        code, errors = build.ended()
        assert code == 3 and "cannot be written" in errors and errors.count("\n") == 1
        with pytest.raises(TrainingError):
            open_store(disk / "lmdb", "train")
        (disk / "filling").unlink()
        assert Build(source, disk / "lmdb").ended() == (0, "")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


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
