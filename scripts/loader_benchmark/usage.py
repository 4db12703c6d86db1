"""What a process and all below it use: processor seconds and memory. For Linux, from /proc and its clocks."""

import time
from contextlib import suppress
from pathlib import Path


def family(root: int) -> set[int]:
    """The ids of a process and of all that descend from it."""
    found, new = set(), {root}
    while new:
        found |= new
        new = {child for pid in new for child in _children(pid)} - found
    return found


def _children(pid: int) -> list[int]:
    with suppress(OSError):  # it ended, or a thread of it
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
        return [int(word) for words in lists for word in words.split()]
    return []


def cpu_seconds(processes: set[int]) -> float:
    """Processor seconds of processes that live, all threads, to the nanosecond where /proc counts in 10 ms."""
    # The clock of another process, as clock_getcpuclockid(3) makes its number.
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in processes)


def memory_bytes(processes: set[int]) -> int:
    """What processes that share with each other alone have in memory.

    Memory of their own or shared between them counts once. Of the files they map, libraries among them, those of the
    process that maps most: counted as PSS does, each would be cheaper the more other contenders map it too.
    """
    own, mapped = 0, [0]
    for pid in processes:
        with suppress(OSError):
            rollup = _fields(f"/proc/{pid}/smaps_rollup")
            own += rollup["Pss_Anon"] + rollup["Pss_Shmem"]
            mapped.append(_fields(f"/proc/{pid}/status")["RssFile"])
    return (own + max(mapped)) << 10


def _fields(path: str) -> dict[str, int]:
    """The lines "name: number kB" of a file."""
    lines = (line.split() for line in Path(path).read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if words[-1:] == ["kB"]}
