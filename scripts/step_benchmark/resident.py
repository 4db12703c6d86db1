"""The batches that everybody gets: a few, of random pixels and labels, that lie ready in memory.

Random, because zeros make a GPU faster (by 13 % on an H200: they flip no bits and draw less power). Few, so that any
network learns them by heart and a loss that does not fall shows a step that does not train.
"""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from data.batches import Batch
from data.order import Request
from scripts.step_benchmark.contenders import CLASSES, SEED

COUNT = 2
NONE = torch.empty(0, dtype=torch.int64)
Pair = tuple[Tensor, Tensor]


def resident(batch_size: int, img_size: int, device: str) -> list[Pair]:
    """Images (n, h, w, 3) uint8 and labels (n,) int64; in pinned memory where they go to a GPU."""
    draw = np.random.default_rng(SEED)
    pairs = []
    for _ in range(COUNT):
        pixels = draw.integers(256, size=(batch_size, img_size, img_size, 3), dtype=np.uint8)
        labels = draw.integers(CLASSES, size=batch_size, dtype=np.int64)
        pairs.append((placed(torch.from_numpy(pixels), device), placed(torch.from_numpy(labels), device)))
    return pairs


def placed(tensor: Tensor, device: str) -> Tensor:
    """In pinned memory if it goes to a GPU."""
    return tensor.pin_memory() if device == "cuda" else tensor


class ResidentLoader:
    """The same batches for whatever is asked for, in turn."""

    def __init__(self, pairs: list[Pair]) -> None:
        self._pairs = itertools.cycle(pairs)

    def describe(self) -> str:
        """One line for the log."""
        return f"{COUNT} batches of random images again and again"

    def batches(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """A batch for each request."""
        for request in requests:
            images, labels = next(self._pairs)
            yield Batch(images, labels, torch.from_numpy(request.indices), NONE)
