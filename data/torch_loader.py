"""The torch engine: worker processes of torch's DataLoader carry the plan out with Pillow, a whole batch each.

One request is one item, so a worker reads, decodes and fills a batch by itself, and the number of workers changes
nothing but the time.
"""

import atexit
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from multiprocessing import active_children
from multiprocessing.process import BaseProcess

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from data.batches import Batch
from data.order import Request
from data.pixels import decode, probe, render
from data.plan import Plan
from data.stores import Store
from utils.errors import DataError, TrainingError

PR_SET_PDEATHSIG = 1  # prctl(2): the signal to get when the parent dies
PREFETCH = 2  # batches that each worker has ready or in work


class TorchLoader:
    """Loads the images of `store` as `plan` shows them, by `workers` processes, or in this one if that is 0."""

    def __init__(self, store: Store, plan: Plan, workers: int) -> None:
        self._maker = BatchMaker(store, plan)
        self._workers = workers

    def batches(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """A batch for each request, in order, the same for any number of workers.

        The workers live until the requests end or the iterator is closed. DataError, the same as without workers, at
        the batch that has a bad image; another one if a worker was killed.
        """
        others = set(active_children())
        items = self._start(requests)
        end = partial(_kill, set(active_children()) - others)
        atexit.register(end)  # or, where an error keeps this frame alive, Python would wait for the workers for ever
        try:
            while (item := _next(items)) is not None:
                if isinstance(item, TrainingError):
                    raise item
                yield item
        finally:
            end()
            atexit.unregister(end)

    def _start(self, requests: Iterable[Request]) -> Iterator[Batch | TrainingError]:
        """The iterator of a DataLoader, its workers running."""
        loader = DataLoader(
            self._maker,
            batch_size=None,
            sampler=requests,
            num_workers=self._workers,
            collate_fn=_unchanged,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_settle if self._workers else None,
            prefetch_factor=PREFETCH if self._workers else None,
            generator=torch.Generator(),  # it draws a seed, which must not come from the network's generator
        )
        # torch's handler would raise a worker's death anywhere in the training step; waiting for a batch finds it too.
        in_main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGCHLD) if in_main else None
        items = iter(loader)
        if before is not None:
            signal.signal(signal.SIGCHLD, before)
        return items


class BatchMaker(Dataset[Batch | TrainingError]):
    """Turns a request into a batch, as the plan says."""

    def __init__(self, store: Store, plan: Plan) -> None:
        self.store, self.plan = store, plan

    def __getitem__(self, request: Request) -> Batch | TrainingError:
        """The batch, or the error that prevents it: raised in a worker it would arrive with the worker's traceback."""
        try:
            return self.make(request)
        except TrainingError as error:
            return error

    def make(self, request: Request) -> Batch:
        """The batch that a request asks for."""
        store, plan, indices = self.store, self.plan, request.indices
        names = [store.name(index) for index in indices.tolist()]
        opened = [probe(store.read(index), name) for index, name in zip(indices.tolist(), names, strict=True)]
        widths, heights = np.array([image.size for image in opened], dtype=np.int64).T
        views = plan.views(request.epoch, indices, widths, heights)
        images = np.empty((len(indices), plan.side, plan.side, 3), dtype=np.uint8)
        for row, name in enumerate(names):
            with closing(opened[row]) as image:  # or the pixels of the whole batch would be in memory at once
                images[row] = render(decode(image, name), views, row, plan.side, plan.interpolation)
        labels = store.labels[indices].astype(np.int64)
        return Batch(torch.from_numpy(images), torch.from_numpy(labels), torch.from_numpy(indices.copy()))


def _unchanged(item: Batch | TrainingError) -> Batch | TrainingError:
    return item


def _next(items: Iterator[Batch | TrainingError]) -> Batch | TrainingError | None:
    """The next item, or None at the end. DataError if a worker was killed."""
    try:
        return next(items, None)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(_death(error)) from error


def _kill(workers: Iterable[BaseProcess]) -> None:
    """End workers at once; they own nothing, and ignore gentler signals."""
    for worker in workers:
        worker.kill()


def _settle(worker: int) -> None:
    """Make a new worker leave signals to the training process, which lets it finish, and die when that one dies."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    torch.set_num_threads(1)


def _death(error: RuntimeError) -> str:
    """What to tell of a worker that was killed; `error` is torch's, whose first line names its process id."""
    line = str(error).splitlines()[0].rstrip(". ")
    free = os.statvfs("/dev/shm") if os.path.isdir("/dev/shm") else None
    shared = f" ({free.f_bavail * free.f_frsize >> 20} MiB of /dev/shm are free)" if free else ""
    return f"{line}: most likely out of memory or of shared memory{shared}; use fewer --workers or give more of either"
