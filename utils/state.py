"""Everything a resumed run needs, gathered from and given back to the parts that own it.

There is no state of generators, loaders or schedules: order, plan and learning rate are functions of (seed, step).
"""

import platform
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from utils.config import Config
from utils.config.comparing import changed_settings
from utils.config.parsing import Settings, settings_of
from utils.distributed import World
from utils.errors import CheckpointError, NumericsError

FORMAT = 1
Facts = dict[str, object]


class HasState(Protocol):
    """Whatever can be saved: networks, optimizers, Precision."""

    def state_dict(self) -> Facts: ...

    def load_state_dict(self, state: Facts) -> object: ...


@dataclass
class Position:
    """Where a run is: steps done, epochs done with their validation, and the best validation so far."""

    step: int = 0
    epoch: int = 0
    best: float = -1.0  # top-1, percent
    best_step: int = -1
    bad_images: int = 0  # replaced by others in training, as of the last log line


@dataclass(frozen=True)
class Identity:
    """What a run is: its settings, its number of shards, its data set, the sum of its teacher (empty: has none)."""

    config: Config
    shards: int
    data: dict[str, str]
    teacher: str = ""

    def facts(self) -> Facts:
        """What a checkpoint says of its run; `arch` is timm's name."""
        return {
            "format": FORMAT,
            "arch": self.config.model.model,
            "seed": self.config.training.seed,
            "shards": self.shards,
            "data": self.data,
            "teacher": self.teacher,
            "config": settings_of(self.config),
        }

    def refuse_other(self, saved: Facts, where: object) -> None:
        """CheckpointError naming the first thing in which a checkpoint belongs to another run."""
        allow = self.config.run.resume_allow
        changes = changed_settings(saved["config"], self.config)
        if self.shards != saved["shards"] and "shards" not in allow:
            changes["shards"] = (saved["shards"], self.shards)
        for kind in self.data.keys() & saved["data"].keys() if "data" not in allow else ():
            if self.data[kind] != saved["data"][kind]:
                changes["data"] = (f"a set with {kind} {saved['data'][kind][:12]}", self.data[kind][:12])
        if self.teacher != saved.get("teacher", "") and "teacher" not in allow:
            changes["teacher"] = tuple(it[:12] or "none" for it in (saved.get("teacher", ""), self.teacher))
        if changes:
            told = "; ".join(f"{name} was {was}, is {now}" for name, (was, now) in changes.items())
            names = " ".join(changes)
            raise CheckpointError(f"{where} is of another run: {told}; repeat its settings, or --resume-allow {names}")


def gather(parts: dict[str, HasState], position: Position, sums: Tensor) -> Facts:
    """The moving part of a checkpoint. NumericsError if a weight is not finite: it would be worse than none."""
    states: Facts = {name: part.state_dict() for name, part in parts.items()}
    for name, value in states["state_dict"].items():
        if value.is_floating_point() and not value.isfinite().all():
            raise NumericsError(f"{name} is not finite at step {position.step}; no checkpoint is written of it")
    return states | {
        "step": position.step,
        "epoch": position.epoch,
        "metric": position.best,
        "metric_step": position.best_step,
        "bad_images": position.bad_images,
        "sums": sums,
        "numerics": numerics(),
    }


def give_back(parts: dict[str, HasState], saved: Facts, where: object) -> Position:
    """Load every part from a checkpoint. CheckpointError with the first misfits if one does not fit."""
    for name, part in parts.items():
        if name not in saved:
            raise CheckpointError(f"{where} has no {name}; it was written without it, so resume it without it")
        try:
            part.load_state_dict(saved[name])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{where} does not fit in {name}: {reason}") from error
    names = ("step", "epoch", "metric", "metric_step", "bad_images")
    return Position(*(saved[name] for name in names))


def numerics() -> Settings:
    """What, besides the settings, the bits of a result depend on."""
    return {
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def changed_numerics(saved: Facts) -> str:
    """What differs from when a checkpoint was written, as words; empty if nothing does."""
    now, then = numerics(), saved["numerics"]
    known = {name: then.get(name, "unknown") for name in now}
    return ", ".join(f"{name} was {known[name]}, is {now[name]}" for name in now if known[name] != now[name])


def compared_among_ranks(identity: Identity, world: World) -> dict[str, str]:
    """Facts that must be the same on every rank."""
    settings = settings_of(identity.config)
    own = {f"--{name.replace('_', '-')}": str(value) for part in settings.values() for name, value in part.items()}
    versions = {"torch": str(torch.__version__), "device": world.device.type}
    return own | {f"data set {kind}": value for kind, value in identity.data.items()} | versions
