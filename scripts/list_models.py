"""Every network of ours with its family, its size at the image size it was published for, and its paper.

    python -m scripts.list_models
    python -m scripts.list_models --filter 'regnet_y*'
    python -m scripts.list_models --outside torchvision          # names of its networks, one a line; or timm
    python -m scripts.list_models --json > tests/models/complexity.json

Networks for 32 px images have ten classes, all others 1000. How is counted: utils/complexity.py.
"""

import json
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from typing import Literal

from models import FAMILIES, image_size
from models.outside import TIMM, TORCHVISION, timm_names, torchvision_names
from scripts.layer_table import CLASSES, complexity
from utils.complexity import row_of
from utils.config import ModelConfig
from utils.errors import UsageError
from utils.registry import nearest
from utils.script import script

SMALL_SIZE, SMALL_CLASSES = 32, 10  # CIFAR's
HEADS = ("name", "family", "parameters", "multiply-adds", "activations", "pixels", "classes", "paper")
SIDES = "<<>>>>><"
WIDTHS = (11, 13, 12, 6, 7, 5)  # of the columns of numbers, and the last one's least


@dataclass(frozen=True)
class ListConfig:
    """Print every network of ours with its size."""

    filter: str = "*"
    """names to print: a pattern such as 'regnet_y*', or a part of the name"""
    json: bool = False
    """print exact numbers as JSON, one network a line"""
    outside: Literal["none", "torchvision", "timm"] = "none"
    """print the names that --model takes for the networks of torchvision, or of timm, instead"""


@dataclass(frozen=True)
class Entry:
    """What is told of one network."""

    name: str
    family: str
    parameters: int
    multiply_adds: int
    activations: int
    image_size: int
    classes: int
    paper: str

    def cells(self) -> tuple[str, ...]:
        """The numbers in millions, as papers have them."""
        numbers = (self.parameters, self.multiply_adds, self.activations)
        millions = [f"{number / 1e6:,.2f} M" for number in numbers]
        return (self.name, self.family, *millions, str(self.image_size), str(self.classes), self.paper)


def describe(name: str, family: str) -> Entry:
    """What a network costs at its own image size."""
    size = image_size(name)
    classes = SMALL_CLASSES if size == SMALL_SIZE else CLASSES
    total = complexity(ModelConfig(model=name), classes, size).total
    paper = getattr(FAMILIES[family][name], "paper", "")
    return Entry(name, family, total.parameters, total.multiply_adds, total.activations, size, classes, paper)


def means(wanted: str, name: str) -> bool:
    """Whether --filter `wanted` means the network called `name`."""
    return fnmatch(name, wanted) or wanted in name


def chosen(wanted: str) -> list[tuple[str, str]]:
    """(name, family) of the networks that `wanted` means. UsageError if there are none."""
    names = {name: family for family, rows in FAMILIES.items() for name in rows}
    found = [(name, family) for name, family in names.items() if means(wanted, name)]
    if not found:
        guess = nearest(wanted, names)
        raise UsageError(f"--filter {wanted} matches no network{f'; did you mean {guess}?' if guess else ''}")
    return found


def outside_names(source: str) -> list[str]:
    """The names that --model takes for the networks of `source`. EnvironmentFault if it is not installed."""
    names, prefix = (timm_names, TIMM) if source == "timm" else (torchvision_names, TORCHVISION)
    return [prefix + name for name in names()]


def as_json(entries: list[Entry]) -> str:
    """A JSON object, one network a line, so that a change of one is a change of one line."""
    facts = [(entry.name, {key: value for key, value in asdict(entry).items() if key != "name"}) for entry in entries]
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(fact)}" for name, fact in facts) + "\n}"


def list_models(config: ListConfig) -> None:
    """Print what `config` asks for."""
    if config.outside != "none":
        print("\n".join(name for name in outside_names(config.outside) if means(config.filter, name)))
        return
    found = chosen(config.filter)
    if config.json:
        print(as_json([describe(name, family) for name, family in found]))
        return
    widths = [max(len(name) for name, _ in found), max(len(family) for _, family in found), *WIDTHS]
    print(row_of(HEADS, SIDES, widths))
    for name, family in found:
        print(row_of(describe(name, family).cells(), SIDES, widths), flush=True)  # all take half a minute
    print(f"{len(found)} networks")


if __name__ == "__main__":
    script(ListConfig, list_models)
