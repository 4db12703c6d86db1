"""What every engine starts from: the images of a split, the plan for them, and what is done about bad ones.

Whether an image is good is Pillow's verdict (see `data.pixels`), whichever engine asks: what an engine's own decoder
does not take is made here, by hand. A bad training image is replaced by another that is a function of (seed, epoch,
index), so engines and numbers of processes agree about it; a bad validation image is left out, for a replacement would
count twice.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image

from data.batches import Batch
from data.header import is_interrupted, read_jpeg_header
from data.order import Request
from data.pixels import decode, probe, render
from data.plan import Plan, TrainPlan, Views
from data.stores import Store
from utils.errors import DataError
from utils.randomness import SUBSTITUTE, uniforms

SUBSTITUTES = 16  # tried for one bad image before a data set is given up


class Source(NamedTuple):
    """A split of a data set. `skips` bad images, or raises a DataError at the first."""

    store: Store
    plan: Plan
    skips: bool

    def begin(self, request: Request, pinned: bool = False, device: torch.device | None = None) -> "Making":
        """A batch to be filled, on `device` or the CPU; `pinned` there in memory that a GPU copies from faster."""
        side = self.plan.side(request.epoch)
        shape = (len(request.indices), side, side, 3)
        images = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned, device=device)
        return Making(self, request, images)

    def picture(self, epoch: int, index: int, copies: NDArray[np.int64] | None) -> NDArray[np.uint8]:
        """One image in the plan's view, by Pillow: (side, side, 3); of `copies` (1,) times. DataError if it is bad."""
        name = self.store.name(index)
        with closing(probe(self.store.read(index), name)) as image:
            widths, heights = np.array(image.size, dtype=np.int64).reshape(2, 1)
            views = self.plan.views(epoch, np.array([index]), widths, heights, copies)
            return render(decode(image, name), views, 0, self.plan.side(epoch), self.plan.interpolation)

    def substitutes(self, plan: TrainPlan, epoch: int, index: int) -> Iterator[int]:
        """Images to show in the place of a bad one, the first that is good: functions of (seed, epoch, index)."""
        numbers = uniforms(plan.seed, SUBSTITUTE, epoch, np.array([index]), SUBSTITUTES)[0]
        yield from (numbers * len(self.store)).astype(np.int64).tolist()


class Making:
    """A batch in the making: an engine fills `pixels`, and says which rows it could not fill."""

    def __init__(self, source: Source, request: Request, images: torch.Tensor) -> None:
        self.source, self.epoch, self.indices = source, request.epoch, request.indices.copy()
        self._copies = request.copies
        self.images = images
        self.pixels = images.numpy() if images.device.type == "cpu" else None  # (n, side, side, 3) uint8
        self._kept = np.ones(len(self.indices), dtype=np.bool_)
        self._bad: dict[int, int] = {}  # row -> index

    def views(self, rows: Sequence[int], widths: NDArray[np.int64], heights: NDArray[np.int64]) -> Views:
        """What the plan shows of the images of these rows, whose sizes are given."""
        return self.source.plan.views(self.epoch, self.indices[rows], widths, heights, self._copies_of(rows))

    def plain_jpegs(self, interrupted: bool = False) -> tuple[list[bytes | None], NDArray[np.int64]]:
        """The files that every JPEG decoder takes, None for the others, and their sizes (n, 2), or 0 and 0.

        Those that are `interrupted` are among them only for a decoder that finds that out by itself.
        """
        store, sizes = self.source.store, np.zeros((len(self.indices), 2), dtype=np.int64)
        files: list[bytes | None] = []
        for row, index in enumerate(self.indices.tolist()):
            try:
                encoded = store.read(index)
                header = read_jpeg_header(encoded, store.name(index))
            except DataError:  # by_hand finds it again, and what to do about it
                header = None
            taken = header is not None and header.plain and (interrupted or not is_interrupted(encoded, header))
            files.append(encoded if taken else None)
            if taken:
                sizes[row] = header.width, header.height
        return files, sizes

    def by_hand(self, rows: Sequence[int]) -> None:
        """Fill rows that the engine's own decoder does not take. DataError if an image is bad and not skipped."""
        plan, store = self.source.plan, self.source.store
        opened = self._open(rows)
        widths, heights = np.array([image.size for image in opened.values()], dtype=np.int64).reshape(-1, 2).T
        views = self.views(list(opened), widths, heights)
        for place, (row, image) in enumerate(opened.items()):
            with closing(image):  # or the pixels of the whole batch would be in memory at once
                try:
                    whole = decode(image, store.name(int(self.indices[row])))
                    self._fill(row, render(whole, views, place, plan.side(self.epoch), plan.interpolation))
                except DataError as error:
                    self.refuse(row, error)

    def _open(self, rows: Sequence[int]) -> dict[int, Image]:
        """The images of these rows, their headers read; bad ones are refused."""
        opened, store = {}, self.source.store
        for row in rows:
            index = int(self.indices[row])
            try:
                opened[row] = probe(store.read(index), store.name(index))
            except DataError as error:
                self.refuse(row, error)
        return opened

    def refuse(self, row: int, error: DataError) -> None:
        """The image of a row is bad: replace it or leave it out, or raise `error` where bad images are not skipped."""
        if not self.source.skips:
            raise error
        index = int(self.indices[row])
        self._bad[row] = index
        if isinstance(self.source.plan, TrainPlan):
            self._replace(row, self.source.plan, index, error)
        else:
            self._kept[row] = False

    def batch(self) -> Batch:
        """The finished batch, augmented, without the rows that were left out."""
        images, indices = self.images, self.indices
        if chain := self.source.plan.augmentations:
            chain.carry_out(images, self.epoch, indices, self._copies)
        if not self._kept.all():
            images, indices = images[torch.from_numpy(self._kept).to(images.device)], indices[self._kept]
        labels = self.source.store.labels[indices].astype(np.int64)
        bad = torch.tensor([self._bad[row] for row in sorted(self._bad)], dtype=torch.int64)
        return Batch(images, torch.from_numpy(labels), torch.from_numpy(indices), bad)

    def _replace(self, row: int, plan: TrainPlan, index: int, error: DataError) -> None:
        for other in self.source.substitutes(plan, self.epoch, index):
            try:
                self._fill(row, self.source.picture(self.epoch, other, self._copies_of([row])))
            except DataError:
                continue
            self.indices[row] = other
            return
        raise DataError(f"{error}; and {SUBSTITUTES} others that were to replace it are bad too")

    def _copies_of(self, rows: Sequence[int]) -> NDArray[np.int64] | None:
        return None if self._copies is None else self._copies[rows]

    def _fill(self, row: int, pixels: NDArray[np.uint8]) -> None:
        self.images[row] = torch.from_numpy(np.array(pixels))  # a copy, as Pillow's cannot be written to
