"""What the benchmarks tell alike: the machine, the packages, and why a contender's process is gone."""

import platform
import re
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PATIENCE = 10  # seconds for a process to end


def processor() -> str:
    """The name of the processor."""
    found = None
    with suppress(OSError):
        found = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return " ".join(found[1].split()) if found else platform.machine()


def versions(packages: Iterable[str]) -> str:
    """Python's, and those of the packages that are installed."""
    found = [f"Python {platform.python_version()}"]
    for package in packages:
        with suppress(PackageNotFoundError):
            found.append(f"{package.removeprefix('nvidia-').removesuffix('-cuda130')} {version(package)}")
    return ", ".join(found)


def why_gone(process: subprocess.Popen, log: Path) -> str:
    """How a process ended that was to go on, and the last line of its log."""
    code = process.wait(PATIENCE)
    said = log.read_text(errors="replace").strip().splitlines()
    how = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
    return f"{how}{f'; its last line: {said[-1]}' if said else ''}"
