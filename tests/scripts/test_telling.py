"""What is told late is told all the same: each number at its own step, before what follows from it."""

import dataclasses
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from in_process import opened, whole_process

from scripts.assembly import Run
from scripts.telling import choices_of
from train_dist import train, train_epoch
from utils import readings
from utils.config import Config, DataConfig, TrainingConfig
from utils.distributed import World
from utils.errors import NumericsError, UsageError
from utils.log import read_history
from utils.precision import SKIPS_IN_A_ROW
from utils.readings import Readings

CPU = World(0, 1, 0, torch.device("cpu"))


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    with whole_process():
        yield


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Late readings work on a machine without a GPU: their copies are there at once."""

    class Copied:
        def record(self) -> None: ...

        def synchronize(self) -> None: ...

    monkeypatch.setattr(readings, "pinned", torch.empty_like)
    monkeypatch.setattr(torch.cuda, "Event", Copied)


def made_late(run: Run) -> Run:
    """As if it were on a GPU, as far as its readings go."""
    run.telling.readings = Readings(late=True)
    return run


def told(folder: Path) -> list[dict[str, float]]:
    """The history without what depends on the clock."""
    lines = read_history(folder / "run")
    return [{k: v for k, v in line.items() if not k.startswith(("perf", "time", "mem"))} for line in lines]


FLAGS = "--save-every 5 --precision fp16 --log-interval 4 --synthetic-images 48"  # epochs end at steps 6 and 12


def test_late_numbers_are_those_of_an_immediate_reading_in_the_same_order(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for name, change in (("now", lambda run: run), ("late", made_late)):
        train(change(opened(tmp_path / name, FLAGS)))
        lines = capfd.readouterr().out.splitlines()
        texts.append([line.split("  lr ")[0] for line in lines if line.startswith(("epoch 1/", "epoch 2/", "val "))])
    assert told(tmp_path / "late") == told(tmp_path / "now")
    assert [line["step"] for line in told(tmp_path / "late")] == [4, 6, 6, 8, 12, 12]
    assert texts[0] == texts[1]


def test_late_numbers_are_told_before_a_checkpoint_and_at_the_end_of_an_epoch(tmp_path: Path) -> None:
    run = made_late(opened(tmp_path, "--log-interval 3"))
    steps, save = [], run.keeper.save
    batches = run.batches()
    run.keeper.save = lambda *args: steps.append([line["step"] for line in told(tmp_path)]) or save(*args)
    run.network.config = dataclasses.replace(
        run.network.config, run=dataclasses.replace(run.network.config.run, save_every=5)
    )
    ask, before = run.telling.step, []
    run.telling.step = lambda *args: ask(*args) or before.append([line["step"] for line in told(tmp_path)])
    train_epoch(run, batches)
    assert before == [[], [3], [3, 6], [3, 6, 9, 10]]
    assert steps == [[3]]


@pytest.mark.parametrize("interval", [SKIPS_IN_A_ROW, SKIPS_IN_A_ROW - 5, 7])
def test_a_run_that_skips_all_its_steps_ends_an_interval_late_at_most(interval: int, tmp_path: Path) -> None:
    run = made_late(opened(tmp_path, f"--lr 1e30 --epochs 5 --log-interval {interval} --synthetic-images 800"))
    with pytest.raises(NumericsError, match=r"in a row up to step \d+; the last checkpoint is good"):
        train(run)
    seen = -(-(SKIPS_IN_A_ROW + 3) // interval) * interval  # the first steps are finite
    assert run.position.step <= seen + interval
    assert not list((tmp_path / "run").glob("*.pth"))


def test_a_run_whose_last_steps_were_all_skipped_does_not_end_well(tmp_path: Path) -> None:
    run = made_late(
        opened(tmp_path, "--lr 1e30 --epochs 1 --warmup-epochs 0 --log-interval 100 --synthetic-images 240")
    )
    with pytest.raises(NumericsError, match="in a row up to step 30"):
        train(run)
    assert not list((tmp_path / "run").glob("*.pth"))


def test_times_of_a_step_add_up_and_are_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(opened(tmp_path, "--log-interval 5"))
    lines = [line for line in read_history(tmp_path / "run") if "train/loss" in line]
    for line in lines:
        parts = [line[f"time/{part}"] for part in ("data_wait", "copy", "forward", "backward", "optimizer", "logging")]
        assert all(part > 0 for part in parts)
        assert sum(parts) == pytest.approx(8 / line["perf/img_per_s"])
        assert line["perf/data_wait"] == pytest.approx(line["time/data_wait"] / sum(parts))
        assert line["mem/peak_gib"] > 0.01
    text = capfd.readouterr().out
    assert text.count("epoch 1: ") == text.count("epoch 2: ") == 1
    assert " forward " in text and " GiB  ETA" in text


def test_a_profile_is_of_the_steps_asked_for_and_changes_no_bit(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = []
    for name, flags in (
        ("plain", "--epochs 1 --warmup-epochs 0"),
        ("traced", "--epochs 1 --warmup-epochs 0 --profile 3"),
    ):
        run = opened(tmp_path / name, flags)
        train(run)
        weights.append(run.network.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    folder = tmp_path / "traced" / "run"
    assert f"{folder}/profile.json.gz" in capfd.readouterr().out
    assert "aten::convolution_backward" in (folder / "profile.txt").read_text()
    with gzip.open(folder / "profile.json.gz") as file:
        names = [event.get("name", "") for event in json.load(file)["traceEvents"]]
    assert sum(name.startswith("Optimizer.step#MemoryOrderSGD") for name in names) == 3
    assert not (tmp_path / "plain" / "run" / "profile.txt").exists()


REFUSED = {
    "none": ("--profile 0", "--profile 0: must be greater than or equal to 1"),
    "fewer than none": ("--profile -2", "--profile -2: must be greater than or equal to 1"),
    "more than there are": ("--profile 16", "--profile 16 needs 21 steps.* 20 are left; ask for 15 at most"),
    "nothing to trace": ("--profile 3 --evaluate --resume auto", "--profile 3 is of steps of training"),
}


@pytest.mark.parametrize(("flags", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_profile_of_what_is_not_there_is_refused(flags: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        opened(tmp_path, flags)
    assert not list(tmp_path.iterdir())


def test_choices_are_what_the_run_has() -> None:
    choices = choices_of(Config(data=DataConfig(loader="torch", workers=3)), CPU)
    assert (choices.loader, choices.workers, choices.on_gpu) == ("torch", 3, False)
    assert choices.other_loaders[0].startswith("--loader native")
    assert not choices_of(Config(data=DataConfig(loader="dali-cpu")), CPU).other_loaders
    assert choices_of(Config(training=TrainingConfig(exact=True)), CPU).threads is None


@pytest.mark.parametrize(
    ("chosen", "compiled"),
    [({}, False), ({"compile": "default"}, True), ({"exact": True}, None), ({"compile": "off"}, False)],
)
def test_compilation_is_left_to_choose_only_where_it_is_not_refused(
    chosen: dict[str, object], compiled: bool | None
) -> None:
    assert choices_of(Config(training=TrainingConfig(**chosen)), CPU).compiled is compiled


def test_a_loader_on_the_gpu_is_suggested_where_it_would_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    gpu = World(0, 1, 0, torch.device("cuda", 0))
    plain, augmented = DataConfig(loader="dali-cpu"), DataConfig(loader="dali-cpu", auto_augment="ra")
    assert choices_of(Config(data=plain), gpu).other_loaders == ("--loader dali-gpu",)
    assert not choices_of(Config(data=augmented), gpu).other_loaders
    assert not choices_of(Config(data=DataConfig(loader="dali-gpu")), gpu).other_loaders
