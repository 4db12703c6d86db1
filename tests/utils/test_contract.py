"""Contracts: what is green, amber and red, and that they change nothing but what is told."""

from pathlib import Path

import pytest

from utils.config import Config, ContractConfig
from utils.config.comparing import changed_settings
from utils.config.parsing import as_toml, read_config, settings_of
from utils.contract import colour_of, judgement, promise
from utils.errors import UsageError

CONTRACT = ContractConfig(top1=((90, 76.0),), tolerance=0.5, parameters=25_557_032, source="somebody")


@pytest.mark.parametrize(
    ("epoch", "reached", "colour"),
    [
        (90, 76.0, "green"),
        (90, 75.5, "green"),
        (90, 79.0, "green"),
        (90, 75.49, "amber"),
        (90, 75.0, "amber"),
        (90, 74.99, "red"),
        (1, 10.0, "amber"),  # nobody has published what a first epoch reaches
        (60, 75.8, "green"),  # there already
        (91, 74.0, "red"),  # a run that goes on
    ],
)
def test_a_validation_is_judged_by_the_published_number_once_it_is_due(epoch: int, reached: float, colour: str) -> None:
    assert colour_of(CONTRACT, epoch, reached) == colour


def test_the_next_number_that_is_due_counts() -> None:
    two = ContractConfig(top1=((10, 50.0), (20, 60.0)), tolerance=1.0)
    assert [colour_of(two, epoch, 49.5) for epoch in (9, 10, 11, 20)] == ["green", "green", "amber", "red"]


def test_a_judgement_says_what_was_reached_and_what_was_expected() -> None:
    told = judgement(CONTRACT, 90, 75.61, 75.9)
    assert told == "contract   green: top-1 75.61 % after epoch 90, 76 % was expected (-0.39)"
    assert judgement(CONTRACT, 3, 40.0, 40.0).endswith("after epoch 3, 76 % is due at epoch 90")


def test_a_published_best_of_run_is_held_against_the_best_of_run() -> None:
    best = ContractConfig(top1=((90, 76.0),), best_of_run=True)
    assert "green: best top-1 75.90 %" in judgement(best, 90, 70.0, 75.9)


def test_a_promise_tells_another_size_than_the_published_one() -> None:
    assert "25,557,032 parameters, green" in promise(CONTRACT, 25_557_032)
    assert "25,557,000 parameters, red: it says 25,557,032" in promise(CONTRACT, 25_557_000)


def test_a_recipe_has_a_contract_and_prints_it_again(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[contract]\ntop1 = [[10, 50], [90, 76.1]]\ntolerance = 0.4\n")
    config, _ = read_config(["--config", str(recipe)])
    assert config.contract == ContractConfig(top1=((10, 50.0), (90, 76.1)), tolerance=0.4)
    recipe.write_text(as_toml(config))
    assert read_config(["--config", str(recipe)])[0] == config


@pytest.mark.parametrize(
    "line", ["top1 = [[0, 76.1]]", "top1 = [[90, 176.1]]", "top1 = [90, 76.1]", "top5 = [[90, 1]]"]
)
def test_a_contract_that_cannot_be_is_refused_in_one_line(line: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"[contract]\n{line}\n")
    with pytest.raises(UsageError) as refused:
        read_config(["--config", str(recipe)])
    assert "recipe.toml: " in str(refused.value) and "\n" not in str(refused.value)


def test_a_contract_has_no_flags() -> None:
    with pytest.raises(UsageError, match="unknown flag --tolerance"):
        read_config(["--tolerance", "1"])


def test_a_resumed_run_may_have_another_contract() -> None:
    assert not changed_settings(settings_of(Config(contract=CONTRACT)), Config())
