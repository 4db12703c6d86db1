"""The house rules that only stay true as tests: floors, sizes, names, one reader a flag."""

import ast
import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from utils.config import Config
from utils.config.parsing import read_config

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("models", "data", "utils", "scripts")
FILES = sorted(
    path for path in [ROOT / "train_dist.py", *(p for name in PACKAGES for p in (ROOT / name).rglob("*.py"))]
)
FILE_LINES, FUNCTION_LINES, STORY_LINES, PARAMETERS = 400, 50, 214, 8

# What each floor may import of ours. utils has a cellar, the only files other utils may import.
MAY_IMPORT = {"models": {"models", "utils"}, "data": {"data", "utils"}, "utils": {"utils"}}
MAY_IMPORT |= {"scripts": {*PACKAGES, "train_dist"}, "train_dist": {*PACKAGES}}
CELLAR = {"config", "registry", "randomness", "distributed", "errors", "files"}
VAGUE = {"misc", "helpers", "helper", "common", "core", "base", "util", "tools", "stuff"}

# A section is handed whole to the floor that reads it.
READERS = {"ModelConfig": "models", "DataConfig": "data", "LossConfig": "utils", "OptimConfig": "utils"}
READERS |= {"ScheduleConfig": "utils", "TrainingConfig": "utils"}


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef))


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=label)
def test_floor_imports_only_what_is_below(path: Path) -> None:
    floor = path.relative_to(ROOT).parts[0].removesuffix(".py")
    ours = {name.split(".")[0] for name in imports(path)} & {*PACKAGES, "train_dist"}
    assert ours <= MAY_IMPORT[floor]


@pytest.mark.parametrize("path", [path for path in FILES if "utils" in path.parts], ids=label)
def test_utils_import_only_their_cellar(path: Path) -> None:
    inside = path.relative_to(ROOT / "utils").parts
    own = {inside[0].removesuffix(".py")}
    used = {name.split(".")[1] for name in imports(path) if name.startswith("utils.")}
    assert used <= CELLAR | own


@pytest.mark.parametrize("path", FILES, ids=label)
def test_files_and_functions_stay_small(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= (STORY_LINES if path.name == "train_dist.py" else FILE_LINES)
    for function in functions(path):
        assert function.end_lineno - function.lineno < FUNCTION_LINES, function.name
        if "triton.jit" in map(ast.unparse, function.decorator_list):
            continue  # a kernel takes pointers and numbers, it has no objects to put them in
        parameters = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        assert len([p for p in parameters if p.arg != "self"]) <= PARAMETERS, function.name


@pytest.mark.parametrize("path", FILES, ids=label)
def test_files_say_what_they_are(path: Path) -> None:
    if path.read_text().strip():
        assert (ast.get_docstring(parsed(path)) or "").strip()
    assert path.stem not in VAGUE
    assert path.stem in ("__init__",) or path.stem not in sys.stdlib_module_names


@pytest.mark.parametrize("path", FILES, ids=label)
def test_no_import_hides_in_a_function(path: Path) -> None:
    optional = ("matplotlib", "sklearn", "nvidia", "apex", "timm", "safetensors", "scipy")
    for function in functions(path):
        hidden = [node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)]
        for node in hidden:
            module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            assert module.startswith(optional), f"{function.name} imports {module}"


def test_tests_have_no_init_files() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def flags() -> list[str]:
    return [field.name for section in dataclasses.fields(Config) for field in dataclasses.fields(section.type)]


def test_every_flag_has_its_own_name() -> None:
    assert len(set(flags())) == len(flags())


@pytest.mark.parametrize("flag", flags())
def test_every_flag_is_read(flag: str) -> None:
    sources = [path.read_text() for path in FILES if "config" not in path.relative_to(ROOT).parts]
    flag_itself = f"--{flag.replace('_', '-')}"
    assert any(re.search(rf"\.{flag}\b(?! *=[^=])|\"{flag}\"|\"{flag_itself}\"", text) for text in sources)


@pytest.mark.parametrize("section", READERS)
def test_a_section_of_flags_is_read_on_one_floor(section: str) -> None:
    users = [path for path in FILES if any(name.endswith(f".{section}") for name in imports(path))]
    floors = {path.relative_to(ROOT).parts[0] for path in users if "config" not in path.parts}
    assert floors - {"scripts"} == {READERS[section]}


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").rglob("*.toml")), ids=label)
def test_every_recipe_is_made_of_settings_that_exist(recipe: Path) -> None:
    config, _ = read_config(["--config", str(recipe)])
    assert config != Config()
