"""Random images that no disk and no decoder slow down: for measuring what the rest of a run can do."""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from data.batches import Batch
from data.order import Request
from utils.errors import UsageError
from utils.randomness import SYNTHETIC, generator

POOL = 64  # different images; more would only fill memory
NONE = torch.empty(0, dtype=torch.int64)


class SyntheticStore:
    """The labels of a data set that has no files: drawn from the seed, each class as likely as another."""

    def __init__(self, seed: int, count: int, classes: int) -> None:
        self.classes = tuple(f"class {number}" for number in range(classes))
        self.labels = generator(seed, SYNTHETIC, 0).integers(classes, size=count, dtype=np.int32)
        self._description = f"synthetic images: {count} of {classes} classes, seed {seed}"

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        """There is nothing to read."""
        raise UsageError(f"{self.name(index)} has no file; synthetic images go with --loader synthetic only")

    def extents(self, indices: NDArray[np.int64]) -> None:
        """There are none."""

    def name(self, index: int) -> str:
        """How an error names an image."""
        return f"synthetic image {index}"

    def identity(self) -> dict[str, str]:
        """`listing` and `content`: a checksum of all that the images are drawn from."""
        checksum = hashlib.sha256(self._description.encode()).hexdigest()
        return {"listing": checksum, "content": checksum}

    def describe(self) -> str:
        """One line for the log."""
        return self._description


class SyntheticLoader:
    """Batches from a pool of POOL random images: image i shows number i modulo POOL, whatever the epoch."""

    def __init__(self, store: SyntheticStore, seed: int, side: int) -> None:
        self._labels = store.labels
        pool = generator(seed, SYNTHETIC, 1).integers(256, size=(POOL, side, side, 3), dtype=np.uint8)
        self._pool = torch.from_numpy(pool)

    def describe(self) -> str:
        """One line for the log."""
        return f"synthetic, {POOL} images again and again"

    def batches(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """A batch for each request, in order."""
        for request in requests:
            indices = torch.from_numpy(request.indices)
            labels = torch.from_numpy(self._labels[request.indices].astype(np.int64))
            yield Batch(self._pool[indices % POOL], labels, indices, NONE)
