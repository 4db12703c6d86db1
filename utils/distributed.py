"""The processes of a run: how they start, agree, and end together.

A run is one process, or as many as torchrun or SLURM starts. Tensors on a GPU travel by NCCL, all others by gloo. Two
things keep a failure short and told once: the rank that fails writes its reason into the shared store before it leaves,
and a thread in every rank watches for that reason; so a rank that waits in a collective, or on a GPU, leaves too.
"""

import contextlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist

from utils.config import TrainingConfig
from utils.errors import DistributedError, EnvironmentFault, TrainingError, UsageError

FAILED = "train_dist/failed"  # store key: "CODE" of the first rank that told its reason
LEAVING = "train_dist/leaving"  # store keys, one a rank: it knows that the run has failed, and leaves
Value = TypeVar("Value")
WATCH_SECONDS = 0.5
PEER_SECONDS = 5.0  # how long survivors look for each other, and for a reason, after a connection broke
LEAVING_SECONDS = 3.0  # how long the first rank waits for the others to learn the reason; a dead one never does


class Watch:
    """A thread that leaves as soon as another rank has told why it failed."""

    def __init__(self):
        self.over = threading.Event()

    def start(self, world: "World") -> None:
        self.thread = threading.Thread(target=self._look, args=(world,), daemon=True)
        self.thread.start()

    def _look(self, world: "World") -> None:
        while not self.over.wait(WATCH_SECONDS):
            try:
                if not world.store.check([FAILED]):
                    continue
            except RuntimeError:
                return  # the store is gone with its host
            _leave_failed(world, _told_code(world) or DistributedError.exit_code)

    def stop(self) -> None:
        """A thread inside the store while Python ends aborts the process: wait until it is out."""
        self.over.set()
        self.thread.join()


@dataclass(frozen=True)
class World:
    """This process among the processes of the run. `control` is a gloo group for flags, barriers and plain objects."""

    rank: int
    size: int
    local_rank: int
    device: torch.device
    store: dist.Store | None = None
    control: dist.ProcessGroup | None = None
    watch: Watch | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def start(training: TrainingConfig) -> World:
    """Find out who this process is, choose its device, and join the others."""
    _environment_from_slurm()
    rank, size, local_rank = _place()
    world = World(rank, size, local_rank, _device(training.device, local_rank))
    _fix_arithmetic(training.exact, training.threads, world.device)
    return _join(world, training.timeout) if size > 1 else world


def _place() -> tuple[int, int, int]:
    """(rank, world size, local rank) from the launcher's variables; one process where there are none."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    present = [name for name in names if name in os.environ]
    if not {"RANK", "WORLD_SIZE"} & set(present):
        return 0, 1, 0
    if missing := [name for name in names if name not in present]:
        raise UsageError(f"{present[0]} is set but {', '.join(missing)} is not; start with torchrun, or unset it")
    try:
        rank, size, local_rank = (int(os.environ[name]) for name in names[:3])
    except ValueError as error:
        raise UsageError(f"RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers: {error}") from error
    if not 0 <= rank < size or local_rank < 0:
        raise UsageError(f"RANK {rank} and LOCAL_RANK {local_rank} do not fit WORLD_SIZE {size}; start with torchrun")
    return rank, size, local_rank


def _environment_from_slurm() -> None:
    """Give torch's variables the values of a SLURM step, where srun and not torchrun started the processes."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if "RANK" in os.environ or tasks == "1" or "SLURM_PROCID" not in os.environ:
        return
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST", "localhost")
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["WORLD_SIZE"] = tasks
    os.environ["LOCAL_RANK"] = os.environ.get("SLURM_LOCALID", "0")
    os.environ.setdefault("MASTER_ADDR", first_node(nodes))
    os.environ.setdefault("MASTER_PORT", str(20_000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20_000))


def first_node(nodes: str) -> str:
    """The first host of SLURM's compressed list: `gpu[03-05,9]-ib,login` is `gpu03-ib`."""
    first_of_each = re.sub(r"\[([^],-]*)[^]]*\]", r"\1", nodes)
    return first_of_each.split(",")[0]


def _device(wanted: str, local_rank: int) -> torch.device:
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise EnvironmentFault("--device cuda, but torch finds no usable GPU; check nvidia-smi, or use --device cpu")
    gpus = torch.cuda.device_count()
    if local_rank >= gpus:
        raise EnvironmentFault(f"more processes on this machine than its {gpus} GPUs; use --nproc_per_node={gpus}")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _fix_arithmetic(exact: bool, threads: int, device: torch.device) -> None:
    """Threads, and under --exact kernels that give the same bits each time."""
    if exact:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not exact
    if exact and device.type == "cpu" and threads not in (0, 1):
        raise UsageError(f"--exact needs one thread a process on a CPU, not --threads {threads}; leave it out")
    if threads or (exact and device.type == "cpu"):
        torch.set_num_threads(threads or 1)  # the number of threads changes the order of additions


def _join(world: World, timeout: float) -> World:
    limit = timedelta(seconds=timeout)
    backend = "cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=limit)
        control = dist.new_group(backend="gloo", timeout=limit)
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = str(error).splitlines()[0]
        who = f"rank {world.rank} of {world.size}"
        raise DistributedError(f"{who} did not meet the others at {where}: {reason}") from error
    joined = replace(world, store=dist.distributed_c10d._get_default_store(), control=control, watch=Watch())
    joined.watch.start(joined)
    return joined


def _told_code(world: World) -> int | None:
    """The exit code of the rank that told its reason, or None."""
    try:
        return int(world.store.get(FAILED)) if world.store.check([FAILED]) else None
    except RuntimeError:
        return None


def fail(world: World | None, error: TrainingError, record: Callable[[], None]) -> NoReturn:
    """End this process, and through it the run, with one line on stderr and `record` called.

    Of several ranks that fail at once only the first to claim it speaks, so that a reason appears once.
    """
    if world is None:
        _wait_behind_first_rank(error.exit_code)
    alone = world is None or world.size == 1
    if alone or _claims_failure(world):
        sys.stdout.flush()
        write_line(f"error: {'' if alone else f'rank {world.rank}: '}{error}", sys.stderr.fileno())
        record()
        if not alone:
            with contextlib.suppress(RuntimeError):
                world.store.set(FAILED, str(error.exit_code))
    else:
        # torchrun ends all ranks when one leaves: let the other one speak
        _wait_for(lambda: _told_code(world) is not None, PEER_SECONDS)
    _leave_failed(world, error.exit_code)


def _leave_failed(world: World | None, code: int) -> NoReturn:
    """End this process. The first rank may host the store that the others learn the reason from: it leaves last."""
    if world is not None and world.size > 1:
        with contextlib.suppress(RuntimeError):
            world.store.set(f"{LEAVING}/{world.rank}", "")
            everyone = [f"{LEAVING}/{rank}" for rank in range(world.size)]
            _wait_for(lambda: not world.is_first or world.store.check(everyone), LEAVING_SECONDS)
    os._exit(code)


def _wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


def _claims_failure(world: World) -> bool:
    try:
        return world.store.add(f"{FAILED}/claims", 1) == 1
    except RuntimeError:
        return True  # the store went with its host: better told twice than never


def _wait_behind_first_rank(code: int) -> None:
    """Before the ranks know each other all of them find the same mistake: let the first one tell it, then leave."""
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) != "0":
        time.sleep(PEER_SECONDS)
        os._exit(code)


def write_line(line: str, descriptor: int, end: str = "\n") -> None:
    """One line in one write, so that lines of several processes never mix; a closed pipe is no reason to stop."""
    with contextlib.suppress(OSError):
        os.write(descriptor, f"{line}{end}".encode(errors="replace"))


def is_broken_connection(error: RuntimeError) -> bool:
    """Whether torch says, in its many words, that another process is gone or silent."""
    words = ("gloo", "Connection closed by peer", "Connection reset", "Broken pipe", "Timed out", "NCCL", "recvValue")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


def broken_connection(world: World, error: RuntimeError) -> DistributedError:
    """What to say of a collective that failed: the ranks that do not answer, if no rank told a reason itself."""
    _wait_for(lambda: _told_code(world) is not None, 2 * WATCH_SECONDS)
    if (code := _told_code(world)) is not None:
        _leave_failed(world, code)
    missing = ""
    try:
        dist.monitored_barrier(world.control, timedelta(seconds=PEER_SECONDS), wait_all_ranks=True)
    except RuntimeError as answer:
        if found := re.search(r"[Rr]anks? ([\d, ]+) failed", str(answer)):
            missing = f"rank {found[1].strip()} no longer answers; "
    reason = re.sub(r"\[[^]]*\]:?\d* ?", "", str(error).strip().splitlines()[0]).partition(". ")[0][:200]
    return DistributedError(f"{missing or 'lost another process; '}run again with --resume auto ({reason})")


def barrier(world: World, phase: str, seconds: float) -> None:
    """Wait for all ranks; DistributedError naming those that did not come."""
    if world.size == 1:
        return
    try:
        dist.monitored_barrier(world.control, timedelta(seconds=seconds), wait_all_ranks=True)
    except RuntimeError as error:
        if "failed to pass monitoredBarrier" not in str(error):
            raise
        ranks = re.search(r"[Rr]anks? ([\d, ]+) failed", str(error))
        who = ranks[1].strip() if ranks else "?"
        raise DistributedError(f"rank {who} did not reach {phase} within {seconds:g} s") from error


def from_first(world: World, value: Value) -> Value:
    """The first rank's value, on every rank."""
    if world.size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=world.control)
    return box[0]


def agree(world: World, facts: dict[str, str]) -> None:
    """DistributedError naming the first fact in which a rank differs from the first rank."""
    if world.size == 1:
        return
    everyone: list[dict[str, str]] = [{} for _ in range(world.size)]
    dist.all_gather_object(everyone, facts, group=world.control)
    for rank, theirs in enumerate(everyone):
        for name, value in everyone[0].items():
            if theirs.get(name) != value:
                found = theirs.get(name)
                raise DistributedError(f"rank {rank} has {name} {found}, rank 0 has {value}; make them equal")


def leave(world: World) -> None:
    """Part from the others at the end of a run."""
    if world.size > 1:
        world.watch.stop()
        dist.destroy_process_group()


class StopSignal:
    """SIGTERM, SIGINT, SIGUSR1 or the end of the launcher, agreed on by all ranks once a step.

    `ask` starts the agreement and `agreed` ends it, so that the message travels while the step is computed.
    """

    def __init__(self, world: World):
        self.world = world
        self.reason = ""
        self.launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self.flag = torch.zeros(1, dtype=torch.int32)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._notice)

    def _notice(self, number: int, frame: object) -> None:
        self.reason = signal.Signals(number).name

    def ask(self) -> None:
        if self.launcher is not None and os.getppid() != self.launcher:
            self.reason = self.reason or "the end of the launcher"
        self.flag.fill_(bool(self.reason))
        if self.world.size > 1:
            self.work = dist.all_reduce(self.flag, dist.ReduceOp.MAX, group=self.world.control, async_op=True)

    def agreed(self) -> bool:
        """Whether any rank was asked to stop before its last `ask`."""
        if self.world.size > 1:
            self.work.wait()
        return bool(self.flag.item())
