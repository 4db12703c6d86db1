"""plot_curves: what it reads from a run, that it draws it, and what it refuses."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from scripts.drawing import INK
from scripts.plot_curves import PlotConfig, averaged, draw, plot, read_curves
from utils.script import run_script

EPOCHS, STEPS_PER_EPOCH = 3, 10


def write_run(folder: Path, rate: float = 0.1, average: bool = False) -> Path:
    """A run of 3 epochs of 10 steps, logged each 5 steps, validated after each epoch."""
    folder.mkdir(parents=True)
    config = {"steps": EPOCHS * STEPS_PER_EPOCH, "schedule": {"epochs": EPOCHS}}
    (folder / "config.json").write_text(json.dumps(config))
    lines = []
    for step in range(5, EPOCHS * STEPS_PER_EPOCH + 1, 5):
        lines.append({"step": step, "train/loss": 1 / step, "train/top1": 2.0 * step, "optim/lr": rate})
        if step % STEPS_PER_EPOCH == 0:
            lines.append({"step": step, "val/loss": 2 / step, "val/top1": 1.5 * step})
            if average:
                lines[-1] |= {"val_ema/loss": 1.9 / step, "val_ema/top1": 1.6 * step}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_curve_is_what_was_logged_by_epoch(tmp_path: Path):
    run = read_curves([write_run(tmp_path / "run")])[0]
    assert run.of("train/top1") == ([0.5, 1.0, 1.5, 2.0, 2.5, 3.0], [10.0, 20.0, 30.0, 40.0, 50.0, 60.0])
    assert run.of("val/top1") == ([1.0, 2.0, 3.0], [15.0, 30.0, 45.0])
    assert run.of("val_ema/top1") == ([], [])


def test_every_measurement_of_every_run_is_drawn_in_the_colour_of_its_run(tmp_path: Path):
    folders = [write_run(tmp_path / "one"), write_run(tmp_path / "two", average=True)]
    loss, accuracy, rate = draw(read_curves(folders)).axes
    drawn = [[len(line.get_xdata()) for line in axes.lines] for axes in (loss, accuracy, rate)]
    points = [6, 3, 0, 0, 6, 3, 3, 0]  # training, validation, both averages of run one and of run two
    assert drawn == [points, points, [6, 6]]
    colours = [line.get_color() for line in accuracy.lines]
    assert len({*colours[:4]}) == len({*colours[4:]}) == 1
    assert {rate.lines[0].get_color(), rate.lines[1].get_color()} == {colours[0], colours[4]} != {INK}


@pytest.mark.parametrize("count", [1, 8, 20])
def test_runs_have_colours_of_their_own(tmp_path: Path, count: int):
    runs = read_curves([write_run(tmp_path / str(number)) for number in range(count)])
    assert len({str(line.get_color()) for line in draw(runs).axes[2].lines}) == count


def test_runs_are_named_by_what_tells_their_folders_apart(tmp_path: Path):
    apart = [write_run(tmp_path / name) for name in ("a", "b")]
    alike = [write_run(tmp_path / name) for name in ("one/run", "two/run")]
    assert [run.name for run in read_curves(apart)] == ["a", "b"]
    assert [run.name for run in read_curves(alike)] == ["one/run", "two/run"]


def test_long_curves_are_averaged_without_losing_their_mean():
    values = [float(value) for value in range(960)]
    short = averaged(values)
    assert len(short) == 240
    assert short[0] == (0 + 1 + 2 + 3) / 4
    assert sum(short) / len(short) == sum(values) / len(values)
    assert averaged(values[:240]) == values[:240]
    assert averaged([]) == []


def command(*words: object) -> int:
    return run_script(PlotConfig, plot, [*map(str, words)])


def test_the_picture_is_a_png_in_the_first_folder_or_where_asked(tmp_path: Path):
    runs = write_run(tmp_path / "one", average=True), write_run(tmp_path / "two", rate=0.2)
    assert command(*runs) == 0
    assert command(*runs, "--output", tmp_path / "other.png") == 0
    for path in (runs[0] / "curves.png", tmp_path / "other.png"):
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert picture.width > picture.height > 500
            assert len(picture.convert("RGB").getcolors(10**6)) > 100, "nothing is drawn"


def test_a_run_of_which_only_one_validation_is_known_is_drawn(tmp_path: Path):
    run = write_run(tmp_path / "run")
    (run / "metrics.jsonl").write_text('{"step": 30, "val/loss": 1.0, "val/top1": 50.0}\n{"step": 31, "val/lo')
    assert command(run) == 0


def test_what_cannot_be_drawn_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = write_run(tmp_path / "run")
    for name in ("empty", "unlogged", "unsettled"):
        write_run(tmp_path / name)
    (tmp_path / "empty/metrics.jsonl").write_text("")
    (tmp_path / "unlogged/metrics.jsonl").unlink()
    (tmp_path / "unsettled/config.json").write_text("{}")
    wrong = {
        "no run given": [],
        f"no run at {tmp_path}/missing": [run, tmp_path / "missing"],
        "empty/metrics.jsonl is missing or empty": [tmp_path / "empty", run],
        "unlogged/metrics.jsonl is missing or empty": [tmp_path / "unlogged"],
        "unsettled/config.json is not the one": [tmp_path / "unsettled"],
        f"--output {tmp_path}/no/x.png cannot be written": [run, "--output", tmp_path / "no/x.png"],
    }
    for reason, words in wrong.items():
        assert command(*words) == 2
        told = capsys.readouterr().err
        assert reason in told
        assert told.count("\n") == 1


def test_without_matplotlib_the_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert command(write_run(tmp_path / "run")) == 7
    assert "pip install matplotlib" in capsys.readouterr().err
