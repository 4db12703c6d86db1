"""Flags of a command from a typed dataclass, every mistake in one line.

tyro makes the flags and the help, pydantic checks the values; this file turns what either of them finds into one line.
"""

import contextlib
import io
import re
from collections.abc import Sequence
from typing import TypeVar

import tyro

from utils.errors import UsageError
from utils.registry import nearest

FLAGS = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)
OUT_OF_RANGE = re.compile(r"validation errors? for \w+ (\w+)[\w.]* (.*?) \[type=\w+, input_value=(.*?), input_type")
FLAGS_IN_ONE = re.compile(r"--?[a-z][^ =]* ")
Settings = TypeVar("Settings")


def parse_flags(
    kind: type[Settings], arguments: Sequence[str], program: str, default: Settings | None = None, more: str = ""
) -> Settings:
    """The `kind` that these arguments ask for; UsageError in one line. `more` is what --help says besides the flags."""
    given = {} if default is None else {"default": default}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            settings, unknown = tyro.cli(
                kind,
                prog=program,
                description=more or None,
                args=_joined(arguments),
                config=FLAGS,
                return_unknown_args=True,
                **given,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(_unboxed(complaint.getvalue())) from stop
    if unknown:
        raise UsageError(_unknown(kind, unknown[0], more))
    return settings


def _joined(arguments: Sequence[str]) -> list[str]:
    """The arguments with a value of several flags, `--flags "-b 64"`, joined to its own, which would else miss it."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and FLAGS_IN_ONE.match(argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _unboxed(text: str) -> str:
    """The first paragraph inside the frame that tyro draws around an error, on one line.

    It holds pydantic's own words where a value is out of range: tyro catches that error before we can. Where the
    terminal is not known to take UTF-8, the frame is two lines of dashes under a title.
    """
    lines = text.splitlines()
    inside = [line.strip("│ ").strip() for line in lines if line.startswith("│")]
    if not inside:
        title_and_dashes = next((i + 1 for i, line in enumerate(lines) if line.strip() and set(line) <= {"-", " "}), 0)
        inside = [line.strip() for line in lines[title_and_dashes:]]
    paragraph = []
    for line in inside:
        if set(line) <= {"─", "-", " "}:
            break
        paragraph.append(line)
    line = " ".join(paragraph) or text.strip()
    if found := OUT_OF_RANGE.search(line):
        return out_of_range(*found.groups())
    return line


def out_of_range(field: str, reason: str, value: object) -> str:
    """A value that pydantic refused, as the user knows it."""
    line = f"--{field.replace('_', '-')} {value}: {reason.replace('Input should be', 'must be')}"
    return " ".join(line.split())


def _unknown(kind: type, word: str, more: str) -> str:
    if not word.startswith("-"):
        return f"unexpected word {word}; --help lists what there is"
    name = word.partition("=")[0]
    guess = nearest(name, _names(kind, more))
    return f"unknown flag {name}; {f'did you mean {guess}?' if guess else '--help lists them'}"


def _names(kind: type, more: str) -> list[str]:
    """Every flag with its aliases, read from the help that tyro makes."""
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen), contextlib.suppress(SystemExit):
        tyro.cli(kind, prog="", args=["--help"], config=FLAGS)
    return sorted(set(re.findall(r"--[a-z][a-z0-9-]*", screen.getvalue() + more)))
