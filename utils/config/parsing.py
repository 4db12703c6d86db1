"""From the command line and a TOML recipe to a `Config`, and back to TOML."""

import dataclasses
import json
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from utils.config import Config
from utils.config.flags import out_of_range, parse_flags
from utils.errors import UsageError
from utils.registry import nearest

DESCRIPTION = """Train an image classifier on any number of processes.

torchrun --nproc_per_node=8 train_dist.py --model resnet50 --norm pws --data-dir DIR

--config FILE.toml    start from a recipe; flags override it
--print-config        print the resulting settings as a recipe and stop
--amp                 the same as --precision fp16
"""

Settings = dict[str, dict[str, object]]


def read_config(arguments: Sequence[str], default: Config | None = None) -> tuple[Config, bool]:
    """The settings that a command line asks for, and whether they are only to be printed. UsageError in one line.

    Flags override the recipe, and the recipe `default`.
    """
    arguments, recipe, print_only = _take_own_flags(list(arguments))
    default = config_from_settings(_read_recipe(Path(recipe)), recipe, default) if recipe else default or Config()
    return parse_flags(Config, arguments, "train_dist.py", default, DESCRIPTION), print_only


def _take_own_flags(arguments: list[str]) -> tuple[list[str], str | None, bool]:
    """Flags that are no settings: --config FILE, --print-config, --amp."""
    rest: list[str] = []
    recipe, print_only = None, False
    words = iter(arguments)
    for word in words:
        if word == "--config" or word.startswith("--config="):
            recipe = word.partition("=")[2] or next(words, None)
            if not recipe:
                raise UsageError("--config needs the path of a TOML recipe")
        elif word == "--print-config":
            print_only = True
        elif word == "--amp":
            rest += ["--precision", "fp16"]
        else:
            rest.append(word)
    return rest, recipe, print_only


def _read_recipe(path: Path) -> Settings:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UsageError(f"recipe {path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # TOML's own, and that of bytes that are no UTF-8
        raise UsageError(f"recipe {path} is not TOML: {' '.join(str(error).split())}") from error


def config_from_settings(settings: Settings, where: str, default: Config | None = None) -> Config:
    """A Config from nested plain values, such as a recipe's tables, over `default`. Unknown names are errors, which
    name `where`."""
    sections = {section.name: section.type for section in dataclasses.fields(Config)}
    parts = {}
    for name, values in settings.items():
        if name not in sections or not isinstance(values, dict):
            raise UsageError(f"{where}: {_unknown_key(name)}")
        fields = {field.name for field in dataclasses.fields(sections[name])}
        values = {key.replace("-", "_"): _as_tuple(value) for key, value in values.items()}
        for key in values:
            if key not in fields:
                raise UsageError(f"{where}: {_unknown_key(key, name)}")
        try:
            parts[name] = dataclasses.replace(getattr(default or Config(), name), **values)
        except ValidationError as error:
            raise UsageError(f"{where}: [{name}] {_first_problem(error)}") from error
    return dataclasses.replace(default or Config(), **parts)


def _as_tuple(value: object) -> object:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _unknown_key(key: str, section: str | None = None) -> str:
    homes = {field: home for home, field in _all_fields()}
    known = [*homes, *(home.name for home in dataclasses.fields(Config))] if section is None else list(homes)
    found = f"[{section}] {key}" if section else key
    guess = key if key in homes else nearest(key, known)
    if guess is None:
        return f"unknown key {found}; --print-config shows all that there are"
    return f"unknown key {found}; did you mean {guess}{f' in [{homes[guess]}]' if guess in homes else ''}?"


def _all_fields() -> Iterator[tuple[str, str]]:
    for section in dataclasses.fields(Config):
        for field in dataclasses.fields(section.type):
            yield section.name, field.name


def _first_problem(error: ValidationError) -> str:
    """The first finding of pydantic as `--flag VALUE: reason`."""
    problem = error.errors()[0]
    return out_of_range(str(problem["loc"][0]), problem["msg"], problem["input"])


def settings_of(config: Config) -> Settings:
    """Plain values, section by section: what config.json and checkpoints hold."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def as_toml(config: Config) -> str:
    """The settings as a recipe; what is not set is left out."""
    lines = []
    for section, values in settings_of(config).items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]
        lines.append("")
    return "\n".join(lines)


def _toml(value: object) -> str:
    """JSON is TOML for these values, but for two things: surrogate pairs, and the bare character 127."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
