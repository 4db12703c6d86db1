"""Hold our layers, networks and readers of checkpoints against numbers that the ancestors' own code computed.

    python -m scripts.check_golden FOLDER
    python -m scripts.check_golden FOLDER --only 'pws__*' --strict --skip 'mz__oct*,pi__*'

FOLDER holds `layers/`, `models/` and `checkpoints/`, of which some may be missing. Each item gets a line: its name, the
largest error, the tolerance, and ok, wrong, or "not ours yet" with the reason. A network that an ancestor built by
mistake is "ours follows the paper", with the reason, if ours has the size of the published one; `golden.mistakes` lists
them. The exit code is 1 if any is wrong, and with --strict also if any is not ours yet and not skipped; 2 if there is
nothing to check.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from tyro.conf import Positional, UseAppendAction

from scripts.golden.checkpoints import EXPECTED, check_checkpoint
from scripts.golden.comparing import Check, NotOursYet
from scripts.golden.layers import check_layer
from scripts.golden.mistakes import mistake_of
from scripts.golden.models import check_model
from utils.errors import UsageError
from utils.script import script

OK, WRONG, NOT_OURS, PAPER = "ok", "wrong", "not ours yet", "ours follows the paper"

# The kinds of items, by folder.
CHECKERS: dict[str, Callable[[Path], list[Check]]] = {
    "layers": check_layer,
    "models": check_model,
    "checkpoints": check_checkpoint,
}


@dataclass(frozen=True)
class Outcome:
    """What was found for one item; `check` is its worst comparison."""

    name: str
    verdict: str
    reason: str = ""
    check: Check | None = None

    def __str__(self) -> str:
        numbers = f"{self.check.error:8.1e} {self.check.tolerance:8.1e}" if self.check else " " * 17
        return f"{self.name:58} {numbers} {self.verdict}{': ' * bool(self.reason)}{self.reason}"


@dataclass(frozen=True)
class CheckConfig:
    """Hold our layers and networks against numbers that the ancestors' own code computed."""

    folder: Positional[Path]
    """holds layers/, models/ and checkpoints/, or some of them"""
    only: str = "*"
    """items to check, such as 'pws__*,models/ws__*'"""
    strict: bool = False
    """also fail if an item is not ours yet"""
    skip: UseAppendAction[tuple[str, ...]] = ()
    """items that --strict lets pass; repeatable"""


def check(config: CheckConfig) -> int:
    """Check, print, and return the exit code."""
    items = find_items(config.folder, config.only)
    print(f"{'item':58} {'error':>8} {'allowed':>8} verdict")
    outcomes = []
    for path in items:
        outcomes.append(examine(path))
        print(outcomes[-1], flush=True)  # a large network takes a minute
    return _summary(outcomes, config.strict, list(config.skip))


def find_items(folder: Path, only: str) -> list[Path]:
    """The golden files whose name matches `only`. UsageError if there are none."""
    items = [path for kind in CHECKERS for path in sorted((folder / kind).glob("*")) if _is_item(path)]
    if not items:
        raise UsageError(f"{folder} holds no golden numbers; expected one of {', '.join(CHECKERS)} in it")
    chosen = [path for path in items if matches(_name(path), [only])]
    if not chosen:
        raise UsageError(f"--only {only} matches none of the {len(items)} items of {folder}")
    return chosen


def _name(path: Path) -> str:
    """`models/mz__resnet50`."""
    return f"{path.parent.name}/{path.name.removesuffix('.npz').removesuffix('.json')}"


def _is_item(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and not path.name.endswith(EXPECTED)


def matches(name: str, patterns: list[str]) -> bool:
    """Whether a pattern, or one of several joined by commas, means the item, with its folder or without."""
    each = [pattern for joined in patterns for pattern in joined.split(",")]
    return any(fnmatch(name, pattern) or fnmatch(name.split("/", 1)[1], pattern) for pattern in each)


def examine(path: Path) -> Outcome:
    """Check one item. Whatever goes wrong in it is its own verdict, so that the others are still checked."""
    name = _name(path)
    mistake = mistake_of(name)
    try:
        checks = mistake.checks() if mistake else CHECKERS[path.parent.name](path)
    except NotOursYet as reason:
        return Outcome(name, NOT_OURS, str(reason))
    except Exception as error:
        return Outcome(name, WRONG, f"{type(error).__name__}: {error}")
    worst = max(checks, key=lambda check: check.badness)
    if not worst.ok:
        return Outcome(name, WRONG, worst.what, worst)
    if mistake:
        return Outcome(name, PAPER, mistake.reason, worst)
    return Outcome(name, OK, "; ".join(check.note for check in checks if check.note), worst)


def _summary(outcomes: list[Outcome], strict: bool, skipped: list[str]) -> int:
    """Print the counts; the exit code."""
    counts = Counter(outcome.verdict for outcome in outcomes)
    paper = f", {counts[PAPER]} where ours follows the paper" if counts[PAPER] else ""
    print(f"{len(outcomes)} items: {counts[OK]} ok, {counts[WRONG]} wrong, {counts[NOT_OURS]} not ours yet{paper}")
    missing = [outcome.name for outcome in outcomes if outcome.verdict == NOT_OURS]
    demanded = [name for name in missing if strict and not matches(name, skipped)]
    if demanded:
        print(f"--strict: {len(demanded)} are not ours yet and not skipped: {', '.join(demanded)}")
    return 1 if counts[WRONG] or demanded else 0


if __name__ == "__main__":
    script(CheckConfig, check)
