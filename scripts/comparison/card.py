"""One run on one page: what it reached, how, on what, and the command that repeats it."""

import dataclasses
import shlex
from collections.abc import Iterator

from scripts.comparison.runs import RunRecord
from utils.config import Config
from utils.config.comparing import RESUMING
from utils.config.parsing import Settings, config_from_settings, settings_of
from utils.contract import colour_of
from utils.log import clock

UNREPEATED = ("output_dir", *RESUMING)  # where a run wrote and where it went on from


def card(run: RunRecord, picture: str) -> str:
    """The page as Markdown, which shows the file `picture`."""
    model = run.config["model"]
    parts = [
        f"# {model['model']}, norm {model['norm']}, seed {run.seed}",
        _table(("", ""), _facts(run)),
        f"![curves]({picture})",
        f"## To repeat it\n\n```\n{command(run)}\n```",
        f"## Settings that are not the default\n\n{_table(('setting', 'value', 'default'), _changed(run.config))}",
        f"## Environment\n\n{_table(('', ''), _environment(run.facts))}",
        f"## Validations\n\n{_table(('epoch', *run.networks), _validations(run))}",
    ]
    return "\n\n".join(parts) + "\n"


def _facts(run: RunRecord) -> Iterator[tuple[str, str]]:
    epochs = run.config["schedule"]["epochs"]
    step = run.history[-1]["step"] if run.history else 0
    state = run.status.get("state", "unknown")
    yield "state", f"{state}, step {step} of {run.facts['steps']}, {epochs} epochs"
    if run.status.get("reason"):
        yield "reason", str(run.status["reason"])
    if run.validations:
        best, epoch, name = run.best()
        yield "best top-1", f"{best:.2f} % after epoch {epoch:g} ({name})"
        for name in run.networks:
            last = run.validations[-1]
            yield f"last {name}", f"top-1 {last[f'{name}/top1']:.2f} %, top-5 {last[f'{name}/top5']:.2f} %"
        yield from _contract(run)
    shards, batch = run.facts["shards"], run.config["training"]["batch_size"]
    yield "global batch", f"{run.global_batch} = {shards} shards of {batch} images"
    yield "time of training", f"{clock(run.training_seconds)}, without validations and interruptions"
    if run.milliseconds is not None:
        yield "time of a step", f"{run.milliseconds:.1f} ms, {1000 * run.global_batch / run.milliseconds:.0f} images/s"
    if run.peak_gib is not None:
        yield "memory", f"{run.peak_gib:.2f} GiB at most, of the first process"


def _contract(run: RunRecord) -> Iterator[tuple[str, str]]:
    contract = settings_as_config(run.config).contract
    if contract.top1:
        epoch = round(run.validations[-1]["step"] / run.steps_per_epoch)
        reached = run.best()[0] if contract.best_of_run else max(run.validations[-1][f"{n}/top1"] for n in run.networks)
        points = ", ".join(f"{top1:g} % at epoch {due}" for due, top1 in contract.top1)
        yield "contract", f"{colour_of(contract, epoch, reached)}: {points}, within {contract.tolerance:g}"


def settings_as_config(saved: Settings) -> Config:
    """The settings that a run's config.json holds."""
    return config_from_settings(saved, "config.json")


def _changed(saved: Settings) -> Iterator[tuple[str, str, str]]:
    """(flag, value, default) of the settings that differ from the defaults."""
    defaults = settings_of(Config())
    for section, values in settings_of(settings_as_config(saved)).items():
        for name, value in values.items():
            if section != "contract" and value != defaults[section][name] and name not in UNREPEATED:
                yield _flag(name), _words(value), _words(defaults[section][name])


def command(run: RunRecord) -> str:
    """The command line that repeats the run, with as many processes."""
    processes = run.facts.get("processes", 1)
    start = f"torchrun --nproc_per_node={processes}" if processes > 1 else "python"
    return f"{start} train_dist.py {shlex.join(flags_of(run))}"


def flags_of(run: RunRecord) -> list[str]:
    """The flags that give a run's settings. A contract has none: it trains nothing."""
    config, shards = settings_as_config(run.config), run.facts["shards"]
    if shards != run.facts.get("processes", 1) and not config.training.grad_accum_steps:
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, shards=shards))
    defaults, words = settings_of(Config()), []
    for section, values in settings_of(config).items():
        for name, value in values.items():
            if section == "contract" or name in UNREPEATED or value in (None, defaults[section][name]):
                continue
            words += [_flag(name)] if value is True else [_flag(name), *_list(value)]
    return words


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _words(value: object) -> str:
    return " ".join(_list(value))


def _list(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _environment(facts: dict[str, object]) -> Iterator[tuple[str, str]]:
    yield "processes", str(facts.get("processes", "unknown"))
    for name, value in facts.get("environment", {}).items():
        yield name, str(value)


def _validations(run: RunRecord) -> Iterator[tuple[str, ...]]:
    for line in run.validations:
        scores = (f"{line[f'{name}/top1']:.2f} / {line[f'{name}/top5']:.2f}" for name in run.networks)
        yield f"{line['step'] / run.steps_per_epoch:g}", *scores


def _table(heads: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
