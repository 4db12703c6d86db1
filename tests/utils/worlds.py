"""Several processes on one machine, joined by gloo, each forked from a warm interpreter."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import launching
import torch
import torch.distributed as dist

from utils.distributed import World

Found = dict[str, object]
Work = Callable[..., Found]


def member(work: Work, rank: int, size: int, folder: str, arguments: tuple[object, ...]) -> None:
    """The body of one process: join the others, work, leave what was found in a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    found = work(World(rank, size, rank, torch.device("cpu")), *arguments)
    torch.save(found, f"{folder}/found_{rank}.pt")
    dist.destroy_process_group()


def on_each_of(size: int, work: Work, folder: Path, *arguments: object, seconds: float = 60) -> list[Found]:
    """What `work`, given its World and the arguments, finds in each of `size` processes."""
    folder.mkdir()
    given = [(work, rank, size, str(folder), arguments) for rank in range(size)]
    processes = [launching.CONTEXT.Process(target=member, args=one) for one in given]
    for process in processes:
        process.start()
    deadline = time.monotonic() + seconds
    try:
        for process in processes:
            process.join(max(deadline - time.monotonic(), 0.1))
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    assert [process.exitcode for process in processes] == [0] * size
    return [torch.load(folder / f"found_{rank}.pt", weights_only=True) for rank in range(size)]
