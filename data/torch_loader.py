"""The torch engine: worker processes carry the plan out with Pillow, a whole batch each."""

from collections.abc import Iterable, Iterator
from contextlib import closing

import numpy as np
import torch

from data.batches import Batch
from data.order import Request
from data.pixels import decode, probe, render
from data.plan import Plan
from data.stores import Store
from data.workers import in_order


class TorchLoader:
    """Loads the images of `store` as `plan` shows them, by `workers` processes, or in this one if that is 0."""

    def __init__(self, store: Store, plan: Plan, workers: int) -> None:
        self._store, self._plan, self._workers = store, plan, workers

    def batches(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """A batch for each request, in order, the same for any number of workers, which live until the requests end.

        DataError at the batch that has a bad image, or if a worker was killed.
        """
        return in_order(self.load, requests, self._workers, pinned=torch.cuda.is_available())

    def load(self, request: Request) -> Batch:
        """The batch that a request asks for. DataError, naming the image, if one is bad."""
        store, plan, indices = self._store, self._plan, request.indices
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
