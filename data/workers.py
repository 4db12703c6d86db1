"""Workers: `in_order` has processes carry out a function for one job after another, `in_threads` threads.

A worker takes a whole job and gives a whole result, so the number of workers changes nothing but the time.
"""

import atexit
import ctypes
import gc
import os
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from utils.errors import DataError, TrainingError

Job = TypeVar("Job")
Result = TypeVar("Result")

PREFETCH = 2  # results that each worker has ready or in work
HUNG = 240.0  # seconds for one result; less than --timeout, so that the cause is told before its effects
GLANCE = 2.0  # seconds after which torch looks whether its workers live
PATIENCE = 1.0  # seconds that workers have to end by themselves
PR_SET_PDEATHSIG = 1  # prctl(2): the signal to get when the parent dies


def in_order(
    work: Callable[[Job], Result], jobs: Iterable[Job], workers: int, pinned: bool = False
) -> Iterator[Result]:
    """work(job) for each job, in order, by `workers` processes, or in this one if that is 0.

    Jobs are asked for a few at a time, so there may be very many. The workers live until the jobs end or the iterator
    is closed. A TrainingError of `work` is raised here as it is without workers; DataError if a worker was killed.
    `pinned` puts tensors into memory that a GPU copies from faster.
    """
    others = set(active_children())
    results = _start(_Works(work), jobs, workers, pinned)
    processes = set(active_children()) - others
    end = partial(_kill, processes)
    atexit.register(end)  # where an error keeps this frame alive, Python would wait for the workers for ever
    try:
        while True:
            result = _next(results)
            if isinstance(result, TrainingError):
                raise result
            if isinstance(result, _End):
                return
            yield result
    finally:
        _stop(results, processes)
        atexit.unregister(end)


def in_threads(
    work: Callable[[Job], Result], jobs: Iterable[Job], threads: int, ahead: int, hung: float = HUNG
) -> Iterator[Result]:
    """work(job) for each job, in order, begun `ahead` jobs before it is asked for; in this thread if that is 0.

    Errors of `work` are raised when its result is asked for; DataError if that takes longer than `hung` seconds.
    """
    if ahead == 0:
        yield from map(work, jobs)
        return
    left = iter(jobs)
    pool = ThreadPoolExecutor(threads, "loader")
    try:
        working: deque[Future[Result]] = deque(pool.submit(work, job) for job in islice(left, ahead))
        while working:
            try:
                result = working.popleft().result(hung)
            except TimeoutError as error:
                raise DataError(_no_result(hung)) from error
            working.extend(pool.submit(work, job) for job in islice(left, 1))
            yield result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _End:
    """What comes after the last result."""


class _Works(Dataset[Result | TrainingError], Generic[Job, Result]):
    """A function as torch wants it: a data set whose items are what `work` makes of a job."""

    def __init__(self, work: Callable[[Job], Result]) -> None:
        self.work = work

    def __getitem__(self, job: Job) -> Result | TrainingError:
        """The result, or the error in its place: raised in a worker it would arrive with the worker's traceback."""
        try:
            return self.work(job)
        except TrainingError as error:
            return error


def _start(
    works: _Works[Job, Result], jobs: Iterable[Job], workers: int, pinned: bool
) -> Iterator[Result | TrainingError]:
    """The iterator of a DataLoader, its workers running."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores: the user's choice
        loader = DataLoader(
            works,
            batch_size=None,
            sampler=jobs,
            num_workers=workers,
            collate_fn=_unchanged,
            pin_memory=pinned,
            worker_init_fn=_settle if workers else None,
            prefetch_factor=PREFETCH if workers else None,
            timeout=GLANCE if workers else 0,
            generator=torch.Generator(),  # it draws a seed, which must not come from the network's generator
        )
        # torch's handler would raise a worker's death anywhere in the training step; waiting for a result finds it too.
        in_main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGCHLD) if in_main else None
        results = iter(loader)
    if before is not None:
        signal.signal(signal.SIGCHLD, before)
    return results


def _unchanged(result: Result | TrainingError) -> Result | TrainingError:
    return result


def _settle(worker: int) -> None:
    """Leave signals to the parent, which decides when all is done, die when it dies, and use one thread."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    torch.set_num_threads(1)
    # Or the first full collection writes to every object of the parent, and 75 MB a worker are its own, not 18.
    gc.freeze()


def _next(results: Iterator[Result | TrainingError]) -> Result | TrainingError | _End:
    """The next result. DataError if a worker was killed, or if there is none for HUNG seconds."""
    begin = time.monotonic()
    while True:
        try:
            return next(results, _End())
        except RuntimeError as error:
            if "DataLoader timed out" in str(error):
                if time.monotonic() - begin > HUNG:
                    raise DataError(_no_result(HUNG)) from error
            elif "DataLoader worker" in str(error):
                raise DataError(_death(error)) from error
            else:
                raise


def _stop(results: Iterator[Result | TrainingError], processes: set[BaseProcess]) -> None:
    """Have torch end the workers, and kill those that are still busy after PATIENCE.

    Not the other way round: a killed worker may hold a lock that torch then waits for without end (seen in tests).
    """
    if not processes.intersection(active_children()):
        return  # all ended by themselves, or were killed as Python ends, when no thread can be started any more
    impatience = threading.Timer(PATIENCE, _kill, [processes])
    impatience.start()
    results._shutdown_workers()  # private, but `results` may live on in a traceback, and ends nothing while it does
    impatience.cancel()
    _kill(processes)


def _kill(processes: set[BaseProcess]) -> None:
    """End workers at once; they own nothing, and ignore gentler signals."""
    for process in processes:
        process.kill()


def _no_result(seconds: float) -> str:
    """What to tell of a worker that lives and gives nothing."""
    return f"process {os.getpid()} got no images for {seconds:g} s: a worker hangs, most likely in a read from the disk"


def _death(error: RuntimeError) -> str:
    """What to tell of a worker that was killed; `error` is torch's, whose first line names its process id."""
    line = str(error).splitlines()[0].rstrip(". ")
    shared = ""
    if os.path.isdir("/dev/shm"):
        free = os.statvfs("/dev/shm")
        shared = f" ({free.f_bavail * free.f_frsize >> 20} MiB of /dev/shm are free)"
    return f"{line}: most likely out of memory or of shared memory{shared}; use fewer --workers or give more of either"
