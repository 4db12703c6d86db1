"""ablate: the grid, its tables, what it refuses, and that a grid which was killed goes on."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fabricated
import pytest

from scripts import ablate
from scripts.ablate import AblateConfig
from scripts.comparison.paired import paired, t_quantile
from scripts.comparison.tricks import TRICKS, flags_of
from utils.config import Config
from utils.config.flags import parse_flags
from utils.config.parsing import read_config
from utils.errors import TrainingError, UsageError

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = Path(fabricated.__file__)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(f'[model]\nmodel = "resnet20"\n\n[schedule]\nepochs = {fabricated.EPOCHS}\nwarmup_epochs = 1\n')
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablate, "PROGRAM", STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own


def of(recipe: Path, output: Path, **more: object) -> AblateConfig:
    return AblateConfig(
        recipe, **{"tricks": "label-smoothing,mixup", "seeds": 2, **more}, data_dir="D", output_dir=output
    )


def table(output: Path, name: str = "ablation.csv") -> dict[str, dict[str, str]]:
    with (output / name).open() as file:
        return {row["trick"]: row for row in csv.DictReader(file)}


def test_a_grid_finds_what_each_trick_changes_and_costs(recipe: Path, tmp_path: Path) -> None:
    """First one trick with one seed; then more of both, for which what is done is not done again."""
    out = tmp_path / "out"
    ablate.ablate(of(recipe, out, tricks="mixup", seeds=1))
    assert table(out)["mixup"]["low"] == ""  # one pair tells of no spread
    assert ablate.ablate(of(recipe, out)) == 0
    starts = sorted(out.rglob("starts.txt"))
    assert len(starts) == 6 and {path.read_text() for path in starts} == {"fresh\n"}
    rows = table(out)
    assert list(rows) == ["baseline", "label-smoothing", "mixup"]
    assert float(rows["baseline"]["top1"]) == 60.5 and rows["baseline"]["difference"] == ""
    gained = rows["mixup"]
    assert float(gained["difference"]) == 1.0 and gained["pairs"] == gained["runs"] == "2"
    assert float(gained["low"]) == float(gained["high"]) == 1.0  # both seeds gained the same
    assert float(gained["ms_per_step"]) == pytest.approx(12.5) and float(gained["time_ratio"]) == pytest.approx(1.25)
    assert float(gained["peak_gib"]) == pytest.approx(1.875)
    told = (out / "ablation.md").read_text()
    assert "| mixup | 61.50 | 90.00 | +1.00 ± 0.00 | 2 | 12.5 | 1.25x | 1.88 | 1.25x |  |" in told
    assert (out / "ablation.png").read_bytes().startswith(b"\x89PNG")
    with (out / "runs.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6


def test_a_grid_that_was_killed_goes_on_where_it_was(recipe: Path, tmp_path: Path) -> None:
    hold, out = tmp_path / "hold", tmp_path / "out"
    hold.touch()
    words = ["--config", str(recipe), "--tricks", "mixup", "--seeds", "1", "--data-dir", "D", "--output-dir", str(out)]
    start = f"import scripts.ablate as a; a.PROGRAM = __import__('pathlib').Path({str(STAND_IN)!r}); "
    code = f"{start}from utils.script import script; script(a.AblateConfig, a.ablate)"
    killed = subprocess.Popen([sys.executable, "-c", code, *words], env=os.environ | {"HOLD": str(hold)}, cwd=ROOT)
    half = out / "baseline/seed_0/starts.txt"
    deadline = time.monotonic() + 60
    while not half.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    time.sleep(0.3)
    hold.unlink()
    time.sleep(0.3)  # were the run still there, it would come to its end now
    assert '"running"' in (out / "baseline/seed_0/status.json").read_text()
    assert ablate.ablate(of(recipe, out, tricks="mixup", seeds=1)) == 0
    assert half.read_text() == "fresh\nresumed\n"
    assert (out / "mixup/seed_0/starts.txt").read_text() == "fresh\n"


def test_a_trick_that_fails_is_told_of_and_the_others_go_on(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIL", "frn")
    assert ablate.ablate(of(recipe, tmp_path / "out", tricks="frn,mixup", seeds=1)) == 1
    rows = table(tmp_path / "out")
    assert rows["frn"]["note"] == "failed: no such norm today" and rows["frn"]["top1"] == ""
    assert rows["mixup"]["runs"] == "1"


def test_a_baseline_that_fails_ends_the_grid(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL", "bn")
    with pytest.raises(TrainingError, match="the baseline cannot be trained: no such norm today"):
        ablate.ablate(of(recipe, tmp_path / "out"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"tricks": "mixupp"}, "--tricks mixupp: there is no such trick; did you mean mixup?"),
        ({"tricks": ""}, "--tricks names none"),
        ({"tricks": "mixup,mixup"}, "names mixup twice"),
        ({"tricks": "mixup", "flags": "--mixup 0.2"}, "--tricks mixup changes nothing: the baseline has its flags"),
        ({"flags": "--epoch 3"}, "unknown flag --epoch"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_run(
    more: dict[str, str], words: str, recipe: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as refused:
        ablate.ablate(of(recipe, tmp_path / "out", **more))
    assert words in str(refused.value) and not (tmp_path / "out").exists()


def test_a_folder_of_other_settings_is_refused(recipe: Path, tmp_path: Path) -> None:
    ablate.ablate(of(recipe, tmp_path / "out", tricks="mixup", seeds=1))
    with pytest.raises(UsageError, match=r"is done with other settings: lr was None, is 0\.3"):
        ablate.ablate(of(recipe, tmp_path / "out", tricks="mixup", seeds=1, flags="--lr 0.3"))


@pytest.mark.parametrize("trick", TRICKS)
def test_every_trick_is_made_of_flags_that_exist_and_change_the_default(trick: str) -> None:
    config, _ = read_config(flags_of(trick)[trick])
    assert config != Config()


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.706205), (2, 4.302653), (3, 3.182446), (4, 2.776445), (29, 2.045230)]
)
def test_quantiles_of_student_are_those_of_the_tables(freedom: int, expected: float) -> None:
    assert t_quantile(0.95, freedom) == pytest.approx(expected, abs=1e-6)


def test_an_interval_is_that_of_the_paired_t_test() -> None:
    gap = paired([1.0, 2.0, 3.0, 6.0])
    assert gap.mean == 3.0 and gap.pairs == 4
    assert gap.half == pytest.approx(3.182446 * (14 / 3) ** 0.5 / 2, rel=1e-6)


@pytest.mark.parametrize("flags", ["-b 64 --epochs 2", "--lr 0.1"])
def test_flags_of_the_runs_are_one_word_of_the_command_line(flags: str) -> None:
    words = ["--config", "x.toml", "--tricks", "mixup", "--data-dir", "d", "--output-dir", "o", "--flags", flags]
    assert parse_flags(AblateConfig, words, "ablate").flags == flags
