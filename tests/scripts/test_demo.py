"""The demo's parts that need no training: its images, its choice of the moment to kill, its kill, its verdict."""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.stores import open_store
from scripts.demo import (
    ALONE,
    KILLED,
    answer,
    conclude,
    digits,
    family,
    in_mid_epoch,
    kill_tree,
    parents,
    run,
    started,
    top1_in,
    write_digits,
)
from utils.errors import TrainingError
from utils.metrics import Score


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder, *digits())
    return folder


def test_the_digits_are_a_data_set_of_1437_and_360_images_in_ten_classes(folder: Path):
    for split, count in (("train", 1437), ("val", 360)):
        store = open_store(folder, split)
        assert len(store) == count
        assert list(store.classes) == list("0123456789")
        assert min(len(list((folder / split / label).iterdir())) for label in store.classes) >= 25


def test_no_digit_is_in_both_splits_and_none_is_missing(folder: Path):
    numbers = [int(path.stem) for path in folder.glob("*/*/*.png")]
    assert sorted(numbers) == list(range(1797))


def test_the_images_are_the_scans_whatever_time_they_are_written(folder: Path, tmp_path: Path):
    images, labels = digits()
    write_digits(tmp_path, images[:20], labels[:20])
    for path in tmp_path.glob("*/*/*.png"):
        twin = folder / path.relative_to(tmp_path)
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(twin.read_bytes()).digest()
        assert int(path.parent.name) == labels[int(path.stem)]
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("L", (32, 32))
            small = np.asarray(image.resize((8, 8), Image.Resampling.BOX), dtype=float)
        assert np.corrcoef(small.ravel(), images[int(path.stem)].ravel())[0, 1] > 0.95


TREE = """
import subprocess, sys, time
if depth := int(sys.argv[1]):
    for group in (True, False):
        subprocess.Popen([sys.executable, "-c", sys.argv[2], str(depth - 1), sys.argv[2]], start_new_session=group)
time.sleep(60)
"""


def test_a_kill_reaches_every_descendant_in_whatever_session():
    root = subprocess.Popen([sys.executable, "-S", "-c", TREE, "2", TREE])
    deadline = time.monotonic() + 15
    while len(family(root.pid)) < 1 + 2 + 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    living = family(root.pid)
    assert len(living) == 7
    assert kill_tree(root.pid) == living
    assert root.wait() == -9
    assert not living & parents().keys()


def test_an_interrupted_command_leaves_nothing_running():
    with pytest.raises(KeyboardInterrupt), started("python -c 'import time; time.sleep(60)'") as process:
        raise KeyboardInterrupt
    assert process.returncode == -9


def test_a_command_that_fails_ends_the_demo_with_its_name_and_code(capfd: pytest.CaptureFixture):
    assert answer("python -c 'print(7)'") == "7"
    with pytest.raises(TrainingError, match=r"exit code 3: python -c 'exit\(3\)'"):
        run("python -c 'exit(3)'")
    assert "$ python -c 'exit(3)'" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("logged", "saved", "right"),
    [
        (11, 8, False),  # too early
        (55, 52, True),
        (55, None, False),  # nothing saved
        (52, 52, False),  # nothing done since
        (60, 58, False),  # the epoch has ended since
        (65, 60, False),  # saved at the end of an epoch
    ],
)
def test_the_kill_comes_after_steps_that_follow_a_checkpoint_within_an_epoch(
    tmp_path: Path, logged: int, saved: int | None, right: bool
):
    assert not in_mid_epoch(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"steps": 100, "schedule": {"epochs": 5}}))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": logged}) + "\n")
    if saved is not None:
        (tmp_path / f"step_{saved:08d}.json").write_text("{}")
    assert in_mid_epoch(tmp_path) is right


def test_the_top1_is_the_one_that_an_evaluation_prints():
    score = Score(98.611, 100.0, 0.05, 360, 0, None)
    assert top1_in(f"resnet20, after 5 steps\nval        {score}") == 98.611
    with pytest.raises(TrainingError, match="no top-1"):
        top1_in("nothing")


def test_the_verdict_demands_equal_sums_and_97_percent(capfd: pytest.CaptureFixture):
    conclude(97.0, {KILLED: "ab", ALONE: "ab"}, 60)
    assert "equal: the kill left no trace" in capfd.readouterr().out
    with pytest.raises(TrainingError, match="other weights"):
        conclude(99.0, {KILLED: "ab", ALONE: "cd"}, 60)
    with pytest.raises(TrainingError, match=r"96\.90 %"):
        conclude(96.9, {KILLED: "ab", ALONE: "ab"}, 60)
