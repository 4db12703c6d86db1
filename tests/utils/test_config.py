"""From flags and recipes to settings: names, aliases, precedence, and mistakes told in one line."""

import dataclasses
import io
import sys
import tomllib
from pathlib import Path

import pytest

from utils.config import Config, ContractConfig, DataConfig, OptimConfig, RunConfig
from utils.config.comparing import MAY_CHANGE, changed_settings
from utils.config.parsing import as_toml, config_from_settings, read_config, settings_of
from utils.errors import UsageError

# The table of design section 4, as far as the flags exist: (spelling, section, field, value).
SPELLINGS = [
    ("--data-dir x", "data", "data_dir", "x"),
    ("--data-path x", "data", "data_dir", "x"),
    ("--model resnet18", "model", "model", "resnet18"),
    ("-a resnet18", "model", "model", "resnet18"),
    ("--arch resnet18", "model", "model", "resnet18"),
    ("-b 7", "training", "batch_size", 7),
    ("--batch-size 7", "training", "batch_size", 7),
    ("-j 3", "data", "workers", 3),
    ("--workers 3", "data", "workers", 3),
    ("--num-workers 3", "data", "workers", 3),
    ("--weight-decay 3e-5", "optim", "weight_decay", 3e-5),
    ("--wd 3e-5", "optim", "weight_decay", 3e-5),
    ("--warmup-epochs 2.5", "schedule", "warmup_epochs", 2.5),
    ("--lr-warmup-epochs 2.5", "schedule", "warmup_epochs", 2.5),
    ("--sched step", "schedule", "sched", "step"),
    ("--lr-scheduler step", "schedule", "sched", "step"),
    ("--label-smoothing 0.2", "loss", "label_smoothing", 0.2),
    ("--smoothing 0.2", "loss", "label_smoothing", 0.2),
    ("--mixup 0.3", "loss", "mixup", 0.3),
    ("--mixup-alpha 0.3", "loss", "mixup", 0.3),
    ("--no-wd-bias", "optim", "no_wd_bias", True),
    ("--no-wd", "optim", "no_wd_bias", True),
    ("--nowd-bn", "optim", "no_wd_bias", True),
    ("--precision bf16", "training", "precision", "bf16"),
    ("--dtype bf16", "training", "precision", "bf16"),
    ("--amp", "training", "precision", "fp16"),
    ("--model-ema", "training", "model_ema", True),
    ("--clip-grad 2", "optim", "clip_grad", 2.0),
    ("--clip-grad-norm 2", "optim", "clip_grad", 2.0),
    ("--evaluate", "run", "evaluate", True),
    ("-e", "run", "evaluate", True),
    ("--test-only", "run", "evaluate", True),
    ("--output-dir out", "run", "output_dir", "out"),
    ("--save-dir out", "run", "output_dir", "out"),
    ("--log-interval 9", "run", "log_interval", 9),
    ("--print-freq 9", "run", "log_interval", 9),
    ("--batch-size=7", "training", "batch_size", 7),
    ("--batch_size 7", "training", "batch_size", 7),
    ("--milestones 3 6 9", "schedule", "milestones", (3, 6, 9)),
    ("--scale 0.2 0.9", "data", "scale", (0.2, 0.9)),
    ("--resume-allow lr epochs", "run", "resume_allow", ("lr", "epochs")),
    ("--seed 9223372036854775807", "training", "seed", 2**63 - 1),
]


@pytest.mark.parametrize(("spelling", "section", "field", "value"), SPELLINGS, ids=[row[0] for row in SPELLINGS])
def test_flag_sets_its_field_and_no_other(spelling: str, section: str, field: str, value: object) -> None:
    config, print_only = read_config(spelling.split())
    expected = dataclasses.asdict(Config())
    assert expected[section][field] != value, "the default would pass too"
    expected[section][field] = value
    assert dataclasses.asdict(config) == expected
    assert not print_only


def one_line(arguments: list[str]) -> str:
    """What is told of a mistake."""
    with pytest.raises(UsageError) as error:
        read_config(arguments)
    line = str(error.value)
    assert len(line.splitlines()) == 1
    assert len(line) < 220
    return line


FLAG_MISTAKES = [
    ("--lable-smoothing 0.1", ["unknown flag --lable-smoothing", "did you mean --label-smoothing?"]),
    ("--batch-siez=3", ["unknown flag --batch-siez;", "did you mean --batch-size?"]),
    ("--pritn-config", ["did you mean --print-config?"]),
    ("--num-wokers 3", ["did you mean --num-workers?"]),
    ("--zzzzqqqq 1", ["unknown flag --zzzzqqqq", "--help"]),
    ("--no-nesterov", ["unknown flag --no-nesterov"]),
    ("--training.batch-size 3", ["unknown flag --training.batch-size"]),
    ("resnet50", ["resnet50"]),
    ("--nesterov true", ["true"]),
    ("--batch-size 0", ["--batch-size 0", "greater than or equal to 1"]),
    ("-b -1", ["--batch-size -1", "greater than or equal to 1"]),
    ("--label-smoothing 1", ["--label-smoothing 1", "less than 1"]),
    ("--label-smoothing -0.1", ["--label-smoothing -0.1", "greater than or equal to 0"]),
    ("--momentum 1", ["--momentum 1", "less than 1"]),
    ("--lr 0", ["--lr 0", "greater than 0"]),
    ("--lr nan", ["--lr nan", "finite"]),
    ("--wd inf", ["--weight-decay inf", "finite"]),
    ("--lookahead 0 2", ["--lookahead 0: must be greater than or equal to 1"]),
    ("--scale 0.5 1.5", ["--scale 1.5", "less than or equal to 1"]),
    ("--seed 9223372036854775808", ["--seed 9223372036854775808", "less than"]),
    ("--batch-size many", ["--batch-size", "many"]),
    ("--epochs 1.5", ["--epochs", "1.5"]),
    ("--lr fast", ["--lr", "fast"]),
    ("--scale 0.1", ["--scale"]),
    ("--sched spline", ["--sched", "spline", "cosine", "step"]),
    ("--precision fp8", ["--precision", "fp8", "bf16"]),
    ("--batch-size", ["--batch-size"]),
    ("--config", ["--config", "recipe"]),
    ("--config=", ["--config", "recipe"]),
    ("--config /nowhere/recipe.toml", ["/nowhere/recipe.toml", "No such file"]),
]


@pytest.mark.parametrize(("mistake", "words"), FLAG_MISTAKES, ids=[row[0] for row in FLAG_MISTAKES])
def test_mistaken_flag_is_told_in_one_line_that_names_it(mistake: str, words: list[str]) -> None:
    line = one_line(mistake.split())
    for word in words:
        assert word in line


RECIPE_MISTAKES = [
    ("[optim]\nwieght_decay = 1e-4", ["[optim] wieght_decay", "did you mean weight_decay in [optim]?"]),
    ("[optimm]\nlr = 1", ["optimm", "did you mean optim?"]),
    ("[loss]\nlr = 0.1", ["[loss] lr", "lr in [optim]"]),
    ("lr = 0.1", ["unknown key lr", "lr in [optim]"]),
    ("model = 'resnet50'", ["unknown key model", "model in [model]"]),
    ("[zzqq]\n", ["unknown key zzqq"]),
    ("[optim]\nlr = -1.0", ["[optim]", "--lr -1.0", "greater than 0"]),
    ("[optim]\nlr = 'fast'", ["--lr fast", "number"]),
    ("[schedule]\nmilestones = [30, 'x']", ["--milestones", "x", "integer"]),
    ("[schedule]\nsched = 'spline'", ["--sched spline", "cosine"]),
    ("[schedule]\nepochs = 1.5", ["--epochs 1.5", "integer"]),
    ("[data]\nscale = [0.1]", ["--scale"]),
    ("[data\nworkers = 1", ["is not TOML", "line 1"]),
    ("[data]\nworkers = 1\nworkers = 2", ["is not TOML"]),
    pytest.param(
        '[schedule]\nsched = """step\nor so"""',
        ["--sched"],
    ),
    pytest.param("\xff", ["is not"]),
]


def test_a_terminal_without_utf8_is_told_in_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with pytest.raises(UsageError, match=r"^--width 0\.0: must be greater than 0$"):
        read_config(["--width", "0"])


@pytest.mark.parametrize(("recipe", "words"), RECIPE_MISTAKES)
def test_mistaken_recipe_is_told_in_one_line_that_names_file_and_key(
    recipe: str, words: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe, encoding="latin-1")
    line = one_line(["--config", str(path)])
    for word in ["recipe.toml", *words]:
        assert word in line


def test_recipe_changes_the_defaults_and_flags_override_it(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        "[optim]\nlr = 0.4\nno_wd_bias = true\n[training]\nbatch-size = 32\n[schedule]\nmilestones=[1, 2]\n"
    )
    for arguments in (["--config", str(path), "--lr", "0.5"], ["--lr=0.5", f"--config={path}"]):
        config, _ = read_config(arguments)
        assert (config.optim.lr, config.optim.no_wd_bias, config.training.batch_size) == (0.5, True, 32)
        assert config.schedule.milestones == (1, 2)
        assert config.data == DataConfig()


def test_recipe_overrides_what_it_starts_from(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("[optim]\nlr = 0.4\n")
    start = Config(optim=OptimConfig(lr=0.1, momentum=0.5), run=RunConfig(save_every=7))
    config, _ = read_config(["--config", str(path), "--momentum", "0.6"], start)
    assert (config.optim.lr, config.optim.momentum, config.run.save_every) == (0.4, 0.6, 7)


def test_print_config_only_asks(tmp_path: Path) -> None:
    config, print_only = read_config(["--print-config", "--lr", "0.5"])
    assert print_only
    assert config.optim.lr == 0.5


CHANGED = "--data-dir d --scale 0.2 1 --seed 9223372036854775807 --wd 1e-05 --milestones 3 --nesterov --clip-grad 1 "
CHANGED += "--resume-allow lr data --timeout 1e22 --std 0.1 0.2 0.3 --shards 8 --amp --sched step --warmup-lr 5e-324"


@pytest.mark.parametrize("flags", ["", CHANGED, "--milestones"])
def test_printed_config_is_a_recipe_for_itself(flags: str, tmp_path: Path) -> None:
    config, _ = read_config(flags.split())
    path = tmp_path / "recipe.toml"
    path.write_text(as_toml(config))
    assert read_config(["--config", str(path)]) == (config, False)


CAT = pytest.param("🐈")
NAMES = [CAT, "a folder", 'quo"te', "back\\slash", "tab\t", "new\nline", "schön", "日本", "del\x7f", "[x] # = '"]


@pytest.mark.parametrize("name", NAMES)
def test_any_folder_survives_the_printed_recipe(name: str) -> None:
    text = as_toml(Config(data=DataConfig(data_dir=name)))
    assert tomllib.loads(text)["data"]["data_dir"] == name


def test_settings_are_plain_and_make_the_config_again() -> None:
    config, _ = read_config(CHANGED.split())
    settings = settings_of(config)
    assert tuple(settings) == ("model", "data", "training", "optim", "schedule", "loss", "run", "contract")
    plain = {type(value) for section in settings.values() for value in section.values()}
    assert plain <= {int, float, str, bool, list, type(None)}
    assert settings["data"]["scale"] == [0.2, 1.0]
    assert config_from_settings(settings, "here") == config


def test_settings_of_a_checkpoint_with_an_unknown_name_are_refused_with_its_path() -> None:
    with pytest.raises(UsageError, match=r"^run/last\.pth: unknown key \[data\] datadir; did you mean data_dir"):
        config_from_settings({"data": {"datadir": "x"}}, "run/last.pth")


def test_help_names_every_flag_and_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        read_config(["--help"])
    assert not stop.value.code
    told = capsys.readouterr().out
    for section in dataclasses.fields(Config):
        for field in dataclasses.fields(section.type):
            assert (f"--{field.name.replace('_', '-')} " in told) == (section.type is not ContractConfig)
    for flag in ("--config", "--print-config", "--amp"):
        assert flag in told


def test_settings_that_may_change_exist() -> None:
    fields = {field.name for section in dataclasses.fields(Config) for field in dataclasses.fields(section.type)}
    assert fields >= MAY_CHANGE


def test_changed_settings_are_those_that_matter_and_were_not_allowed() -> None:
    saved = settings_of(Config())
    flags = (
        "--lr 0.5 --scale 0.1 1 --workers 9 --epochs 3 --val-interval 2 --output-dir x --shards 2 --resume-allow epochs"
    )
    config, _ = read_config(flags.split())
    assert changed_settings(saved, config) == {"lr": (None, 0.5), "scale": ([0.08, 1.0], [0.1, 1.0])}
    assert changed_settings(settings_of(config), config) == {}


@pytest.mark.parametrize("name", ["seed", "batch_size", "precision", "exact", "model", "norm", "mixup", "scale", "lr"])
def test_what_changes_the_weights_may_not_change_unasked(name: str) -> None:
    assert name not in MAY_CHANGE
