"""How every script starts and ends: flags from a dataclass, one line for a mistake, an exit code."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from utils.config.flags import parse_flags
from utils.errors import TrainingError

Options = TypeVar("Options")
INTERRUPTED = 130  # as shells have it for SIGINT


def run_script(kind: type[Options], body: Callable[[Options], int | None], arguments: list[str]) -> int:
    """Parse the flags of `kind`, run `body` with them, and come back with the exit code (0 where it gives none)."""
    return ended(lambda: body(parse_flags(kind, arguments, Path(sys.argv[0]).name)))


def ended(work: Callable[[], int | None]) -> int:
    """The exit code of `work`, whose mistakes are told in one line."""
    try:
        return work() or 0
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return INTERRUPTED


def script(kind: type[Options], body: Callable[[Options], int | None]) -> NoReturn:
    """`run_script` as the whole of a process."""
    sys.exit(run_script(kind, body, sys.argv[1:]))
