"""plot_schedule: the rates that a run would have, from its own flags, drawn and printed."""

from pathlib import Path

import pytest
from PIL import Image

from scripts.plot_schedule import DrawingConfig, draw, drawing_from, plot, rates_of, table
from utils.config import OptimConfig
from utils.errors import UsageError
from utils.schedule import build_schedule, peak_rate

FEW = ["--epochs", "6", "--warmup-epochs", "2", "--images", "1000", "-b", "10"]


def test_rates_are_those_of_a_run_with_the_same_flags() -> None:
    config = drawing_from([*FEW, "--processes", "4", "--grad-accum-steps", "2", "--lr-base", "0.2"])
    rates = rates_of(config)
    rate = build_schedule(config.schedule, peak_rate(OptimConfig(lr_base=0.2), 80), 12)
    assert rates.steps_per_epoch == 12
    assert rates.values == [rate(step) for step in range(72)]
    assert rates.at(2) == (rate(24), rate(35))


def test_flags_override_a_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[schedule]\nepochs = 7\nsched = 'linear'\n[optim]\nlr = 0.3\n")
    for words in (["--config", str(recipe)], [f"--config={recipe}"]):
        config = drawing_from(["--epochs", "9", *words, "--images", "500"])
        assert (config.schedule.epochs, config.schedule.sched, config.optim.lr) == (9, "linear", 0.3)
        assert config.images == 500


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sched", "linear", "--cycles", "2"], "--cycles has no effect on --sched linear"),
        (["--config"], "--config needs the path"),
        (["--schedd", "linear"], "did you mean --sched"),
        (["--images", "9"], "an epoch would have 0 steps"),
        (["--processes", "0"], "--processes 0"),
    ],
    ids=str,
)
def test_what_a_run_would_refuse_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rates_of(drawing_from([*FEW, *words]))


def test_curve_is_every_rate_by_epochs_and_swa_is_marked() -> None:
    config = drawing_from([*FEW, "--swa", "4"])
    rates = rates_of(config)
    (axes,) = draw(rates).axes
    curve, mark = axes.lines
    assert list(curve.get_ydata()) == rates.values
    assert list(curve.get_xdata()) == [step / 100 for step in range(600)]
    assert list(mark.get_xdata()) == [4, 4]
    assert len(draw(rates_of(drawing_from(FEW))).axes[0].lines) == 1


def test_picture_is_written_and_rates_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "picture.png"
    plot(drawing_from([*FEW, "--output", str(path)]))
    assert Image.open(path).size[0] > 500
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == ["0", "1", "2", "3", "4", "5"]
    assert lines[-1] == str(path)


def test_table_of_a_long_run_is_short_and_ends_with_the_last_epoch() -> None:
    lines = table(rates_of(DrawingConfig(images=1280)))
    assert len(lines) <= 12
    assert lines[-1].split()[0] == "89"
