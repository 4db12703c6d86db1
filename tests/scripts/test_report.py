"""report: the card of one run, and several runs held against the first."""

import csv
import dataclasses
import shlex
from pathlib import Path

import pytest
from fabricated import write_run

from scripts.comparison.card import command, flags_of
from scripts.comparison.runs import read_run
from scripts.report import ReportConfig, report
from utils.config import Config, ContractConfig, RunConfig
from utils.config.parsing import read_config
from utils.errors import UsageError

WORDS = ["--model", "resnet20", "--epochs", "2", "--warmup-epochs", "1", "--data-dir", "some data", "--no-wd-bias"]


def settings(*more: str) -> Config:
    return read_config([*WORDS, *more])[0]


def test_a_card_tells_what_a_run_reached_and_how_to_repeat_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    contract = ContractConfig(top1=((2, 60.2),), source="somebody")
    folder = write_run(tmp_path / "run", dataclasses.replace(settings(), contract=contract))
    report(ReportConfig((folder,)))
    assert capsys.readouterr().out.strip() == str(folder / "card.md")
    page = (folder / "card.md").read_text()
    for line in (
        "| best top-1 | 60.00 % after epoch 2 (val) |",
        "| contract | green: 60.2 % at epoch 2, within 0.5 |",
        "| time of a step | 10.0 ms, 12800 images/s |",
        "| memory | 1.50 GiB at most, of the first process |",
        "| --no-wd-bias | True | False |",
        "| torch | 2.0 |",
        "| 2 | 60.00 / 90.00 |",
    ):
        assert line in page
    assert (folder / "card.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_of_a_card_gives_the_same_settings_again(tmp_path: Path) -> None:
    more = ["--milestones", "1", "2", "--sched", "step", "--mean", "0.1", "0.2", "0.3", "--resume", "auto"]
    config = settings(*more, "--output-dir", str(tmp_path / "run"))
    words = flags_of(read_run(write_run(tmp_path / "run", config)))
    assert read_config(words)[0] == dataclasses.replace(config, run=RunConfig())
    line = command(read_run(tmp_path / "run"))
    assert shlex.split(line) == ["python", "train_dist.py", *words]


def test_runs_are_grouped_by_all_but_the_seed_and_paired_by_it(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / f"{name}{seed}", settings("--seed", str(seed), *flags))
        for name, flags in (("plain", []), ("mixed", ["--mixup", "0.2"]))
        for seed in (0, 1, 2)
    ]
    report(ReportConfig(tuple(folders), tmp_path / "out"))
    with (tmp_path / "out/ablation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["trick"], row["runs"]) for row in rows] == [("baseline", "3"), ("mixup 0.2", "3")]
    assert float(rows[1]["difference"]) == 1.0
    assert (tmp_path / "out/ablation.png").exists()


def test_the_average_of_weights_is_what_a_run_is_judged_by(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", settings())
    path = folder / "metrics.jsonl"
    path.write_text(path.read_text().replace('"val/top5"', '"val_ema/top1": 70.0, "val_ema/top5": 95.0, "val/top5"'))
    run = read_run(folder)
    assert (run.judged, run.last("top1"), run.networks) == ("val_ema", 70.0, ["val", "val_ema"])


def test_what_cannot_be_reported_is_refused(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", settings())
    twin = write_run(tmp_path / "twin", settings())
    half = write_run(tmp_path / "half", settings("--seed", "1"), epochs=1)
    out = tmp_path / "out"
    for runs, folder, words in (
        ((), None, "no run given"),
        ((one, one), out, "named twice"),
        ((tmp_path / "none",), None, "no run at"),
        ((one, twin), None, "say where to write with --output-dir"),
        ((one, twin), out, "has settings and seed of"),
        ((one, half), out, "is not finished"),
    ):
        with pytest.raises(UsageError, match=words):
            report(ReportConfig(runs, folder))
