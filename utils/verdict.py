"""What bounds the speed of training, in words, and what would help that is not chosen already."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

COMPUTE = ("forward", "backward")
# The share of the time from which a part is more than it should be; where several are, the largest is told of.
LIMITS = {"data_wait": 0.10, "copy": 0.10, "optimizer": 0.20, "logging": 0.05, "validation": 0.25}
NAMES = {"data_wait": "data", "copy": "copy"}  # where the part is called otherwise
REMARKS = {"copy": "normalizing and mixing", "validation": "of the epoch, with the checkpoint"}
IN_A_ROW = 2  # intervals that a new bound has to last: one may be chance


@dataclass(frozen=True)
class Choices:
    """What a run was told to do, as far as it matters for its speed."""

    cores: int  # for this process
    workers: int  # as the loader has them
    loader: str
    other_loaders: tuple[str, ...]  # faster ones that would run here, each as a flag or an instruction
    on_gpu: bool
    threads: int | None  # of this process; None where it may not have more
    precision: str
    compiled: bool | None  # None where it cannot be chosen
    fused: bool  # the optimizer, as far as it can be
    mixed_each: bool  # each image by a share of its own
    log_interval: int
    log_indices: bool
    save_every: int
    val_interval: int
    epochs: int


@dataclass(frozen=True)
class Verdict:
    """`bound` is the part that bounds the speed, or compute."""

    bound: str
    words: str


def verdict(seconds: Mapping[str, float], choices: Choices) -> Verdict | None:
    """What bounds a stretch of training of which each part took so many seconds; nothing of one that took none."""
    judged = {part: spent for part, spent in seconds.items() if part in (*COMPUTE, *LIMITS)}
    whole = sum(judged.values())
    if not whole:
        return None
    shares = {part: spent / whole for part, spent in judged.items()}
    beyond = {part: share for part, share in shares.items() if share >= LIMITS.get(part, math.inf)}
    if not beyond:
        compute = sum(shares[part] for part in COMPUTE)
        words, help_ = f"compute-bound: {100 * compute:.0f} % forward and backward", _for_compute(choices)
        return Verdict("compute", f"{words}{', try ' if help_ else ''}{' or '.join(help_)}")
    part = max(beyond, key=beyond.get)
    remark = f" {REMARKS[part]}" if part in REMARKS else ""
    help_ = HELP[part](choices, shares[part])
    words = f"{NAMES.get(part, part)}-bound {100 * shares[part]:.0f} %{remark}"
    return Verdict(part, f"{words}: try {' or '.join(help_)}" if help_ else words)


def _for_compute(choices: Choices) -> list[str]:
    found = []
    if choices.on_gpu and choices.compiled is False:
        found.append("--compile default")
    if choices.on_gpu and choices.precision in ("fp32", "tf32"):
        found.append("--precision bf16")
    if not choices.on_gpu and choices.threads is not None and choices.threads < choices.cores:
        found.append(f"--threads {choices.cores}")
    return found


def _for_data(choices: Choices, share: float) -> list[str]:
    if choices.loader == "synthetic":
        return []
    more = [f"-j {choices.cores}"] if choices.workers < choices.cores else []
    return [*more, *choices.other_loaders] or ["images stored smaller, or more cores"]


def _for_copy(choices: Choices, share: float) -> list[str]:
    return ["--mix-per batch"] if choices.mixed_each else []


def _for_optimizer(choices: Choices, share: float) -> list[str]:
    return [*([] if choices.fused else ["--fused auto"]), "a larger -b"]


def _for_logging(choices: Choices, share: float) -> list[str]:
    rarer = [f"--log-interval {10 * choices.log_interval}"]
    unlogged = ["no --log-indices"] if choices.log_indices else []
    saved = [f"--save-every {10 * choices.save_every}"] if choices.save_every else []
    return [*rarer, *unlogged, *saved]


def _for_validation(choices: Choices, share: float) -> list[str]:
    """Validations so much rarer that they come below their limit, if there are that many epochs."""
    limit = LIMITS["validation"]
    times = math.ceil(share * (1 - limit) / (limit * (1 - share))) if share < 1 else choices.epochs
    interval = min(max(2, times) * choices.val_interval, choices.epochs)
    return [f"--val-interval {interval}"] if interval > choices.val_interval else []


HELP: dict[str, Callable[[Choices, float], list[str]]] = {
    "data_wait": _for_data,
    "copy": _for_copy,
    "optimizer": _for_optimizer,
    "logging": _for_logging,
    "validation": _for_validation,
}


class Verdicts:
    """What bounded the speed so far: a new bound is told when it lasts, and each epoch at its end.

    The first interval also holds what starts once, such as workers and compilation: it is left out of the first epoch
    as soon as there is another.
    """

    def __init__(self, choices: Choices):
        self.choices = choices
        self.bound, self.candidate, self.lasted = "", "", 0
        self.intervals = 0
        self.epoch: Counter[str] = Counter()

    def changed(self, seconds: Mapping[str, float]) -> str | None:
        """The words for a bound that is new, and lasts, with the interval that took so many seconds."""
        self.intervals += 1
        if self.intervals == 2:
            self.epoch.clear()
        self.epoch.update(seconds)
        found = verdict({part: spent for part, spent in seconds.items() if part != "validation"}, self.choices)
        if not found or self.intervals == 1:
            return None
        self.lasted = self.lasted + 1 if found.bound == self.candidate else 1
        self.candidate = found.bound
        if found.bound == self.bound or self.lasted < IN_A_ROW:
            return None
        self.bound = found.bound
        return found.words

    def ended(self, seconds: Mapping[str, float]) -> str | None:
        """The words for the epoch that ends, with what its validation took."""
        self.epoch.update(seconds)
        found, self.epoch = verdict(self.epoch, self.choices), Counter()
        if not found:
            return None
        self.bound = found.bound
        return found.words
