"""What a run tells: neither gaps nor doubles after a resume, whatever a kill left."""

import errno
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from utils import log
from utils.log import History, IndexLog, Progress, Report, clock, cut_index_logs, read_history


def steps(folder: Path) -> list[int]:
    return [line["step"] for line in read_history(folder)]


def events(folder: Path, tag: str) -> list[tuple[int, float]]:
    """(step, value) as TensorBoard shows them, in the order of its files."""
    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    return [(event.step, event.value) for event in board.Scalars(tag)]


def told(folder: Path, resumed_step: int, last_step: int, kill: bool = False) -> None:
    """A run from one step to another that tells a number a step."""
    history = History(folder, resumed_step)
    for step in range(resumed_step + 1, last_step + 1):
        history.add(step, {"train/loss": float(step), "optim/lr": 0.5})
    if kill:
        history.flush()
    else:
        history.close()


def test_history_is_cut_at_the_step_it_goes_on_from(tmp_path: Path) -> None:
    told(tmp_path, 0, 10, kill=True)
    assert steps(tmp_path) == list(range(1, 11))
    told(tmp_path, 6, 8)
    assert steps(tmp_path) == list(range(1, 9))
    told(tmp_path, 0, 2)  # a fresh start
    assert steps(tmp_path) == [1, 2]


def test_lines_hold_step_time_and_values(tmp_path: Path) -> None:
    history = History(tmp_path, 0)
    history.add(5, {"val/top1": 12.5, "val/loss": float("nan")})
    history.flush()
    (line,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert (line["step"], line["val/top1"]) == (5, 12.5)
    assert line["val/loss"] != line["val/loss"]
    assert 1.6e9 < line["time"] < 4e9


def test_torn_last_line_is_ignored_and_cut(tmp_path: Path) -> None:
    told(tmp_path, 0, 3)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "time": 1.0, "train/lo')
    assert steps(tmp_path) == [1, 2, 3]
    told(tmp_path, 3, 5)
    assert steps(tmp_path) == [1, 2, 3, 4, 5]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5


def test_missing_history_is_empty(tmp_path: Path) -> None:
    assert read_history(tmp_path) == []


def test_tensorboard_has_neither_gaps_nor_doubles_after_kills(tmp_path: Path) -> None:
    told(tmp_path, 0, 10, kill=True)
    told(tmp_path, 6, 9, kill=True)
    told(tmp_path, 7, 12)
    expected = [(step, float(step)) for step in range(1, 13)]
    assert events(tmp_path, "train/loss") == expected
    assert [step for step, _ in events(tmp_path, "optim/lr")] == list(range(1, 13))


def test_what_has_no_slash_is_not_drawn(tmp_path: Path) -> None:
    told(tmp_path, 0, 2)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert sorted(board.Tags()["scalars"]) == ["optim/lr", "train/loss"]


def test_full_disk_is_said_once_and_does_not_stop_the_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    history = History(tmp_path, 0)
    history.file.close()

    class Full:
        def write(self, text: str) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    history.file = Full()
    for step in (1, 2):
        history.add(step, {"train/loss": 1.0})
    (line,) = capfd.readouterr().out.splitlines()
    assert "metrics.jsonl cannot be written (No space left on device)" in line


def test_index_logs_forget_the_steps_that_are_taken_again(tmp_path: Path) -> None:
    for rank in (0, 1):
        logged = IndexLog(tmp_path, rank)
        for step in range(5):
            logged.add(step, rank, [10 * step + rank, 7])
        logged.file.write('{"step": 5, "shard": 0, "ind')
        logged.file.close()
    cut_index_logs(tmp_path, 3)  # three steps are done: 0, 1 and 2
    for rank in (0, 1):
        lines = [json.loads(line) for line in (tmp_path / f"indices_rank{rank}.jsonl").read_text().splitlines()]
        assert lines == [{"step": step, "shard": rank, "indices": [10 * step + rank, 7]} for step in range(3)]


def test_index_log_is_appended_to(tmp_path: Path) -> None:
    for step in (0, 1):
        logged = IndexLog(tmp_path, 0)
        logged.add(step, 0, [step])
        logged.file.close()
    assert len((tmp_path / "indices_rank0.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00:00"),
        (59.9, "0:00:59"),
        (3723, "1:02:03"),
        (86399, "23:59:59"),
        (86400, "1d 0:00:00"),
        (4 * 86400 + 3723, "4d 1:02:03"),
    ],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


VALUES = {
    "train/loss": 1.23456,
    "train/top1": 45.678,
    "optim/lr": 0.04,
    "perf/img_per_s": 200.0,
    "perf/data_wait": 0.25,
    "mem/peak_gib": 1.5,
}
TIMES = {"time/data_wait": 0.25, "time/forward": 0.25, "time/backward": 0.496, "time/logging": 0.004}


def test_progress_tells_where_the_run_is_and_when_it_ends(capfd: pytest.CaptureFixture[str]) -> None:
    progress = Progress(steps=1000, steps_per_epoch=100, global_batch=64)
    progress.show(250, VALUES)
    (line,) = capfd.readouterr().out.splitlines()
    expected = ["epoch 3/10", "step 250/1000", "loss 1.2346", "top-1 45.68 %", "lr 0.04", "200 img/s"]
    for words in [*expected, "waiting for data 25 %", "1.50 GiB", "ETA 0:04:00"]:  # 750 steps of 64 images at 200/s
        assert words in line
    progress.show(251, VALUES | TIMES)
    assert "waiting for data 25 %  forward 25 backward 50 %  1.50 GiB" in capfd.readouterr().out
    assert "skipped" not in line
    assert "\x1b" not in line


@pytest.mark.parametrize(("step", "epoch"), [(1, 1), (100, 1), (101, 2), (1000, 10)])
def test_progress_counts_the_epoch_of_the_step_that_was_done(
    step: int, epoch: int, capfd: pytest.CaptureFixture[str]
) -> None:
    Progress(1000, 100, 64).show(step, VALUES)
    assert f"epoch {epoch}/10 " in capfd.readouterr().out


def test_progress_tells_skipped_steps_and_lives_without_a_loss(capfd: pytest.CaptureFixture[str]) -> None:
    values = {name: value for name, value in VALUES.items() if not name.startswith("train")}
    Progress(1000, 100, 64).show(1, values | {"amp/skipped_steps": 3})
    line = capfd.readouterr().out
    assert "loss nan" in line
    assert "skipped 3" in line


def test_progress_rewrites_one_line_on_a_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(log.shutil, "get_terminal_size", lambda: os.terminal_size((40, 20)))
    progress = Progress(1000, 100, 64)
    progress.show(1, VALUES)
    progress.show(2, VALUES)
    log.say("done")
    told = capfd.readouterr().out
    assert told.count("\n") == 1
    shown = told.split("\r\x1b[2K")[1:]
    assert all(len(line) <= 39 for line in shown[:2])
    assert shown[2] == "done\n"


def test_report_hands_numbers_to_history_and_progress(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report = Report(History(tmp_path, 0), Progress(10, 5, 4), IndexLog(tmp_path, 0))
    report.used(0, 1, torch.tensor([5, 3]))
    report.progressed(1, VALUES | {"train/loss": 2.0})
    report.validated(1, {"val": {"top1": 50.0}, "val_ema": {"top1": 60.0}})
    report.flush()
    training, validation = read_history(tmp_path)
    assert (training["step"], training["train/loss"]) == (1, 2.0)
    assert training["perf/img_per_s"] == 200.0
    assert {name for name in validation if "/" in name} == {"val/top1", "val_ema/top1"}
    assert "step 1/10" in capfd.readouterr().out
    assert json.loads((tmp_path / "indices_rank0.jsonl").read_text()) == {"step": 0, "shard": 1, "indices": [5, 3]}


def test_report_of_another_rank_tells_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report = Report(None, Progress(10, 5, 4), None)
    report.used(0, 1, torch.tensor([5, 3]))
    report.progressed(1, VALUES)
    report.validated(1, {"val": {"top1": 50.0}})
    report.flush()
    assert capfd.readouterr().out == ""
    assert os.listdir(tmp_path) == []


def test_table_has_a_row_for_each_epoch_with_means_over_steps_and_last_values(tmp_path: Path) -> None:
    history = History(tmp_path, 0)
    for step, loss in ((4, 1.0), (5, 6.0), (9, 3.0), (10, 3.0)):
        history.add(step, {"train/loss": loss, "optim/lr": 1 / step, "time/copy": 2 * loss})
        if step % 5 == 0:
            history.add(step, {"val/top1": float(step), "weights/fc.bias/mean": 0.5})
            history.write_epochs(5)
    rows = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    assert rows == [
        ["epoch", "step", "train/loss", "optim/lr", "time/copy", "val/top1"],
        ["1", "5", "2.0", "0.2", "4.0", "5.0"],  # 4 steps of loss 1 and one of 6
        ["2", "10", "3.0", "0.1", "6.0", "10.0"],
    ]


def test_resumed_table_has_neither_gaps_nor_doubles(tmp_path: Path) -> None:
    told(tmp_path, 0, 9)
    history = History(tmp_path, 5)
    for step in range(6, 11):
        history.add(step, {"train/loss": float(step), "optim/lr": 0.5})
    history.write_epochs(5)
    rows = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    assert [row[:3] for row in rows[1:]] == [["1", "5", "3.0"], ["2", "10", "8.0"]]


def test_weight_values_are_those_of_each_weight() -> None:
    layer = torch.nn.Linear(3, 2)
    values = log.weight_values(layer)["weights"]
    weight = layer.weight.detach().double()
    assert values["weight/mean"] == pytest.approx(weight.mean().item(), abs=1e-7)
    assert values["weight/std"] == pytest.approx(((weight - weight.mean()) ** 2).mean().sqrt().item(), rel=1e-6)
    assert values["bias/norm"] == pytest.approx(layer.bias.detach().square().sum().sqrt().item(), rel=1e-6)
    assert len(values) == 6
