"""Recipes: each parses, has the published size and says what it must; each kind of settings takes its first steps."""

import dataclasses
from pathlib import Path

import pytest

from scripts.list_recipes import FOLDER, ListConfig, Recipe, list_recipes, recipes, size_of
from scripts.rehearsal import rehearse, shrunk, write_noise
from utils.config import Config, ModelConfig

RECIPES = recipes()
LIGHT = "resnet20"  # stands for every network where settings other than the network's are tried


def kind(recipe: Recipe) -> str:
    """What of its settings may keep a recipe from running, besides the network."""
    config, plain = recipe.config, Config()
    sections = {"data": config.data, "loss": config.loss, "optim": config.optim, "schedule": config.schedule}
    changed = []
    for section, values in sections.items():
        default = getattr(plain, section)
        changed += [name for name in vars(default) if getattr(values, name) != getattr(default, name)]
    return " ".join(sorted(changed))


KINDS = {kind(recipe): recipe for recipe in RECIPES}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_opens_with_its_command_its_number_and_its_hours(recipe: Recipe) -> None:
    head = (FOLDER / f"{recipe.name}.toml").read_text().partition("\n[")[0]
    assert f"--config recipes/{recipe.name}.toml" in head
    if recipe.config.contract.top1:
        assert "# Published: " in head and "# Hours: " in head and "estimate" in head and "# Source: " in head


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_contract_is_of_the_run_that_its_recipe_is(recipe: Recipe) -> None:
    contract = recipe.config.contract
    if contract.top1:
        assert contract.top1[-1][0] == recipe.config.schedule.epochs and contract.source
        assert list(contract.top1) == sorted(contract.top1)


@pytest.mark.parametrize("recipe", [r for r in RECIPES if r.config.contract.parameters], ids=lambda recipe: recipe.name)
def test_the_network_of_a_recipe_has_the_published_size(recipe: Recipe) -> None:
    assert size_of(recipe) == recipe.config.contract.parameters


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise(tmp_path_factory.mktemp("noise"))


@pytest.mark.parametrize("recipe", KINDS.values(), ids=lambda recipe: recipe.name)
def test_each_kind_of_settings_takes_two_steps(recipe: Recipe, noise: Path, tmp_path: Path) -> None:
    """With a small network in the place of the recipe's; list_recipes --steps 2 takes them with each recipe's own."""
    small = shrunk(recipe.config, noise, tmp_path / "run")
    if "depthwise" not in small.optim.wd_skip:  # which the small network has none of
        small = dataclasses.replace(small, model=ModelConfig(model=LIGHT))
    assert rehearse(small, 2) > 0


def test_recipes_are_listed_with_their_published_numbers(capsys: pytest.CaptureFixture) -> None:
    assert list_recipes(ListConfig("pwsconv/imagenet_resnet50_pws")) == 0
    assert "25,561,256     100        76  last epoch     0.5  PWSConv, README" in capsys.readouterr().out
