"""The torch engine: worker processes carry the plan out with Pillow, a whole batch each."""

from collections.abc import Iterable, Iterator
from contextlib import closing

import numpy as np
import torch
from PIL.Image import Image

from data.batches import Batch
from data.order import Request
from data.pixels import decode, probe, render
from data.source import Making, Source
from data.workers import in_order
from utils.errors import DataError


class TorchLoader:
    """Loads the images of `source` by `workers` processes, or in this one if that is 0."""

    def __init__(self, source: Source, workers: int) -> None:
        self._source, self._workers = source, workers

    def batches(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """A batch for each request, in order, the same for any number of workers, which live until the requests end.

        DataError at the batch that has a bad image, or if a worker was killed.
        """
        return in_order(self.load, requests, self._workers, pinned=torch.cuda.is_available())

    def describe(self) -> str:
        """One line for the log."""
        return f"torch, Pillow in {self._workers} processes"

    def load(self, request: Request) -> Batch:
        """The batch that a request asks for. DataError, naming the image, if one is bad."""
        making, plan = self._source.begin(request), self._source.plan
        opened = _open(making)
        rows = list(opened)
        widths, heights = np.array([opened[row].size for row in rows], dtype=np.int64).reshape(-1, 2).T
        views = plan.views(request.epoch, request.indices[rows], widths, heights)
        for place, row in enumerate(rows):
            with closing(opened[row]) as image:  # or the pixels of the whole batch would be in memory at once
                try:
                    name = self._source.store.name(int(request.indices[row]))
                    making.pixels[row] = render(decode(image, name), views, place, plan.side, plan.interpolation)
                except DataError as error:
                    making.refuse(row, error)
        return making.batch()


def _open(making: Making) -> dict[int, Image]:
    """The images of a batch, by row, their headers read; bad ones are refused."""
    opened, store = {}, making.source.store
    for row, index in enumerate(making.indices.tolist()):
        try:
            opened[row] = probe(store.read(index), store.name(index))
        except DataError as error:
            making.refuse(row, error)
    return opened
