"""The native engine: one call in C for a batch, which reads, checks, decodes and resizes in threads without the GIL."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from data.batches import Batch
from data.order import Request
from data.source import Making, Source
from data.workers import in_threads
from utils.errors import EnvironmentFault

try:
    from data.region_decoder import Decoder
except ImportError:  # no compiler or no libjpeg-turbo where this was installed
    Decoder = None

AHEAD = 3  # batches ready or in work: one in the hands of the training loop, two in the making
MAKERS = 2  # threads in Python, so that one can prepare a batch while the other waits for C
GET_IT = "apt install gcc libjpeg-dev, then pip install -e . again; it loads more than twice as fast as --loader torch"


def is_built() -> bool:
    """Whether the C extension is there."""
    return Decoder is not None


class NativeLoader:
    """Loads the images of `source` by `threads` threads in C. EnvironmentFault where the extension was not built."""

    def __init__(self, source: Source, threads: int) -> None:
        if Decoder is None:
            raise EnvironmentFault(f"--loader native was not built here; {GET_IT}")
        self._source, self._threads = source, threads
        self._decoder = Decoder(max(threads, 1))

    def batches(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """A batch for each request, in order, the same for any number of threads. DataError at a bad image."""
        makers, ahead = (
            (MAKERS, AHEAD) if self._source.plan.augmentations is None else (self._threads, self._threads + 1)
        )
        return in_threads(self.load, requests, makers, ahead if self._threads else 0)

    def describe(self) -> str:
        """One line for the log."""
        return f"native, {self._threads} threads, {AHEAD if self._threads else 0} batches ahead"

    def load(self, request: Request) -> Batch:
        """The batch that a request asks for. DataError, naming the image, if one is bad."""
        making = self._source.begin(request, pinned=torch.cuda.is_available())
        extents = self._source.store.extents(request.indices)
        if extents is None:
            encoded, sizes = making.plain_jpegs(interrupted=True)
            file, places = -1, np.zeros((len(encoded), 3), dtype=np.int64)
        else:
            encoded, (file, places, sizes) = None, extents
        status = self._render(making, encoded, file, places, sizes)
        making.by_hand(np.flatnonzero(status).tolist())
        return making.batch()

    def _render(
        self,
        making: Making,
        encoded: list[bytes | None] | None,
        file: int,
        places: NDArray[np.int64],
        sizes: NDArray[np.int64],
    ) -> NDArray[np.int32]:
        """Fill the rows that C can fill; 0 for those, the reason of region_decoder.c for the others: (n,)."""
        plan, status = self._source.plan, np.ones(len(sizes), dtype=np.int32)
        rows = np.flatnonzero(sizes.all(axis=1))
        views = np.zeros((len(sizes), 9), dtype=np.int64)
        seen = making.views(rows, *sizes[rows].T)
        views[rows] = np.concatenate([seen.boxes, seen.sizes, seen.corners, seen.flips[:, None]], axis=1)
        status[rows] = 0  # C takes up those with 0 only
        bicubic = plan.interpolation == "bicubic"
        self._decoder.render(encoded, file, places, views, bicubic, making.pixels, status)
        return status
