"""Every recipe with its network, its epochs and the published number that it is held to.

    python -m scripts.list_recipes
    python -m scripts.list_recipes --filter 'pwsconv/*'
    python -m scripts.list_recipes --steps 2     # take so many steps of each on a few small images of noise, too

A recipe is a TOML file under recipes/, which opens with its command, what was published, by whom, and an estimate of
the hours. Where --steps is given, the exit code is 1 if a recipe cannot take them or has another size than published.
"""

import tempfile
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from models import build_model
from scripts.rehearsal import rehearse, shrunk, write_noise
from utils.complexity import aligned
from utils.config import Config, ModelConfig
from utils.config.parsing import config_from_settings
from utils.errors import TrainingError, UsageError
from utils.log import say
from utils.registry import nearest
from utils.script import script

FOLDER = Path(__file__).resolve().parents[1] / "recipes"
CLASSES = {"imagenet": 1000, "cifar100": 100, "cifar10": 10}  # by how a recipe's name begins
HEADS = ("recipe", "network", "parameters", "epochs", "top-1, %", "of", "within", "published by")
SIDES = "<<>>><><"


@checked(frozen=True)
class ListConfig:
    """Print every recipe with the published number that it is held to."""

    filter: str = "*"
    """recipes to print: a pattern such as 'pwsconv/*', or a part of the name"""
    steps: Annotated[int, Field(ge=0)] = 0
    """steps of training to take of each, on a few small images of noise"""


@dataclass(frozen=True)
class Recipe:
    """A file under recipes/ and what it says."""

    name: str
    config: Config

    @property
    def classes(self) -> int:
        """Of the data set that it is for."""
        start = Path(self.name).name.partition("_")[0]
        return self.config.model.num_classes or CLASSES[start]

    def cells(self) -> tuple[str, ...]:
        contract, model = self.config.contract, self.config.model
        top1 = " ".join(f"{value:g}" for _, value in contract.top1)
        kind = "" if not contract.top1 else "best epoch" if contract.best_of_run else "last epoch"
        size = f"{contract.parameters:,}" if contract.parameters else ""
        within = f"{contract.tolerance:g}" if contract.top1 else ""
        epochs = str(self.config.schedule.epochs)
        return self.name, network(model), size, epochs, top1, kind, within, contract.source


def network(model: ModelConfig) -> str:
    """A network's name with its norm and attention where they are not the default."""
    parts = [model.model]
    parts += [model.norm] if model.norm != "bn" else []
    parts += [model.attention] if model.attention != "auto" else []
    return " ".join(parts)


def recipes() -> list[Recipe]:
    """All recipes by name, which is the path under recipes/ without .toml."""
    return [read_recipe(path) for path in sorted(FOLDER.rglob("*.toml"))]


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file. UsageError in one line if it is none."""
    config = config_from_settings(tomllib.loads(path.read_text()), str(path))
    return Recipe(str(path.relative_to(FOLDER).with_suffix("")), config)


def size_of(recipe: Recipe) -> int:
    """The parameters of its network, which is not filled with numbers for that."""
    with torch.device("meta"):
        model = build_model(recipe.config.model, recipe.classes)
    return sum(parameter.numel() for parameter in model.parameters())


def chosen(wanted: str) -> list[Recipe]:
    """The recipes that --filter `wanted` means. UsageError if there are none."""
    known = recipes()
    found = [recipe for recipe in known if fnmatch(recipe.name, wanted) or wanted in recipe.name]
    if not found:
        guess = nearest(wanted, [recipe.name for recipe in known])
        raise UsageError(f"--filter {wanted} matches no recipe{f'; did you mean {guess}?' if guess else ''}")
    return found


def attempt(recipe: Recipe, steps: int, images: Path) -> str:
    """What happens in so many steps, as a line. TrainingError if they fail, or the size is not the published one."""
    size, wanted = size_of(recipe), recipe.config.contract.parameters
    if wanted not in (None, size):
        raise TrainingError(f"{size:,} parameters, {wanted:,} were published")
    with tempfile.TemporaryDirectory() as folder:
        loss = rehearse(shrunk(recipe.config, images, Path(folder) / "run"), steps)
    return f"{size:,} parameters, loss {loss:.3f} after {steps} steps"


def list_recipes(config: ListConfig) -> int:
    """Print what `config` asks for, and come back with the exit code."""
    found = chosen(config.filter)
    print(aligned([HEADS, *(recipe.cells() for recipe in found)], SIDES))
    print(f"{len(found)} recipes")
    return 1 if config.steps and not _attempt_all(found, config.steps) else 0


def _attempt_all(found: list[Recipe], steps: int) -> bool:
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        images = write_noise(Path(folder))
        for recipe in found:
            try:
                say(f"ok      {recipe.name}: {attempt(recipe, steps, images)}")
            except TrainingError as error:
                failed.append(recipe.name)
                say(f"FAILED  {recipe.name}: {error}")
    say(f"{len(found) - len(failed)} of {len(found)} recipes took {steps} steps")
    return not failed


if __name__ == "__main__":
    script(ListConfig, list_recipes)
