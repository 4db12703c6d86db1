"""The DALI engine: NVIDIA's library decodes, resizes and crops the windows of our plan, in its own threads or on a GPU.

DALI is given the bytes and the numbers of each batch, and keeps no order, no epoch and no random state, so a run that
goes on asks for the batches from there, and nothing of DALI's is in a checkpoint. On the CPU its decoder gives Pillow's
pixels exactly; its resize differs, mostly by 1, and by up to 23 in the outermost row or column, where it repeats the
edge and Pillow leaves out what is beyond. On 125 photographs the mean difference was 0.16 of 255 (bilinear) and 0.17
(bicubic), for none of them above 0.23. Only plain JPEGs go to it; a blank one takes the place of every other image,
which is made by hand.

On a GPU the batches stay there. That has not run: where this was written there was no GPU; a test serialises its graph.
"""

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from data.batches import Batch
from data.order import Request
from data.plan import Plan
from data.source import Making, Source
from data.workers import in_threads
from utils.errors import EnvironmentFault

if TYPE_CHECKING:
    from nvidia.dali import Pipeline
    from nvidia.dali.data_node import DataNode
    from nvidia.dali.types import BatchInfo

AHEAD = 2  # batches in DALI, and as many read and waiting for it
BLANK = 16  # side of the JPEG in the place of those that DALI is not given, pixels
UNDECODED = "Failed to decode"  # in DALI's message about a file that it could not decode
GET_IT = "pip install nvidia-dali-cuda130 (or pip install -e '.[dali]'), or use --loader native or torch"

# Kept ready by each thread for the decoder on a GPU, so that its memory grows for images above these only.
MEMORY = {
    "device_memory_padding": 64 << 20,
    "host_memory_padding": 32 << 20,
    "preallocate_width_hint": 4096,
    "preallocate_height_hint": 4096,
    "affine": False,  # or every rank would tie its first thread to the same core
}

# What DALI is fed of an image: bytes (length,), start x y and extent x y of the box, height and width after the resize,
# flip or not, and, unless the plan's window is all of that, its left and top.
DIMENSIONS = [1, 1, 1, 1, 0, 1]
Columns = tuple[list[NDArray[np.uint8]], *tuple[NDArray[np.int32 | np.float32], ...]]


class Feed(NamedTuple):
    """A batch on its way: what DALI is given of each image, and the rows that it cannot fill."""

    making: Making
    columns: Columns
    odd: list[int]


class DaliLoader:
    """Loads the images of `source` with NVIDIA's DALI; on the CPU if `device_id` is None.

    EnvironmentFault if DALI is not installed.
    """

    def __init__(self, source: Source, threads: int, device_id: int | None) -> None:
        try:
            import nvidia.dali  # noqa: F401 (only whether it is there: it takes a second)
        except ImportError as error:
            raise EnvironmentFault(f"--loader dali-cpu and dali-gpu need NVIDIA's DALI: {GET_IT}") from error
        self._source, self._threads, self._device_id = source, threads, device_id
        self._blank = _blank()

    def batches(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """A batch for each request, in order, the same for any number of threads. DataError at a bad image.

        Images that DALI cannot decode are judged by Pillow, as everywhere: their batch is made by hand, and DALI starts
        anew with the next.
        """
        decoded = self._decoded(_Belt(in_threads(self._prepare, requests, 1, AHEAD if self._threads else 0)))
        if self._source.plan.augmentations is None:
            yield from map(_finish, decoded)
        else:
            yield from in_threads(_finish, decoded, max(self._threads, 1), self._threads + 1 if self._threads else 0)

    def describe(self) -> str:
        """One line for the log."""
        where = "on the CPU" if self._device_id is None else f"on GPU {self._device_id}"
        return f"DALI {where}, {self._threads} threads, {AHEAD if self._threads else 0} batches ahead"

    def _decoded(self, belt: "_Belt") -> Iterator[Feed]:
        """The batches of the belt with what DALI can fill."""
        size = 0
        while more := belt.next_size():
            size = max(size, more)
            yield from self._run(self._pipeline(belt, size), belt)

    def _run(self, pipeline: "Pipeline", belt: "_Belt") -> Iterator[Feed]:
        """The batches that one pipeline fills: until there are no more, or a larger one, or one that it fails on."""
        stream = None if self._device_id is None else torch.cuda.current_stream(self._device_id)
        while True:
            try:
                (images,) = pipeline.run(stream)
            except StopIteration:
                return
            except RuntimeError as error:
                if UNDECODED not in str(error):
                    raise EnvironmentFault(f"DALI failed: {_reason(error)}; use --loader native or torch") from error
                failed = belt.failed()
                yield failed._replace(odd=list(range(len(failed.making.indices))))
                return
            feed = belt.inside.popleft()
            feed.making.images.copy_(torch.from_dlpack(images.as_tensor()))
            yield feed

    def _pipeline(self, belt: "_Belt", size: int) -> "Pipeline":
        """A pipeline for batches of up to `size` images, taken from the belt."""
        from nvidia.dali import Pipeline

        device = "cpu" if self._device_id is None else "mixed"
        pipeline = Pipeline(
            batch_size=size,
            num_threads=max(self._threads, 1),
            device_id=self._device_id,
            prefetch_queue_depth=AHEAD if self._threads else 1,
        )
        with pipeline:
            pipeline.set_outputs(graph(lambda info: belt.take(size), self._source.plan, device))
        return pipeline

    def _prepare(self, request: Request) -> Feed:
        """The bytes of a batch and the numbers that DALI needs."""
        on_gpu = self._device_id is not None
        device = torch.device("cuda", self._device_id) if on_gpu else None
        making = self._source.begin(request, pinned=torch.cuda.is_available() and not on_gpu, device=device)
        files, extents = making.plain_jpegs()
        rows = np.flatnonzero(extents.all(axis=1))
        views = making.views(rows, *extents[rows].T)
        blank = [0, 0, BLANK, BLANK, *making.images.shape[1:3], 0, 0, 0]
        numbers = np.tile(np.array(blank, dtype=np.int32), (len(files), 1))
        numbers[rows] = np.column_stack([views.boxes, views.sizes[:, ::-1], views.corners, views.flips])
        encoded = [np.frombuffer(file or self._blank, dtype=np.uint8) for file in files]
        starts, extents, sizes, corners = (numbers[:, first : first + 2].copy() for first in (0, 2, 4, 6))
        columns = encoded, starts, extents, sizes.astype(np.float32), numbers[:, 8].copy(), corners
        return Feed(making, columns[: _fed(self._source.plan)], [row for row, file in enumerate(files) if file is None])


def graph(feed: "Callable[[BatchInfo], Columns]", plan: Plan, device: str) -> "DataNode":
    """The images of a batch, (n, side, side, 3) uint8, in the pipeline that is being defined.

    `device` is where the decoder runs: "cpu", or "mixed", which begins on the CPU and ends on the GPU. `feed` takes
    DALI's BatchInfo, the form that also DALI's own checkpoints can restore.
    """
    from nvidia.dali import fn, types

    encoded, starts, extents, sizes, flips, *corners = fn.external_source(
        feed,
        num_outputs=_fed(plan),
        batch=True,
        batch_info=True,
        ndim=DIMENSIONS[: _fed(plan)],
        no_copy=device == "cpu",  # the belt keeps what is inside
    )
    images = fn.decoders.image_slice(
        encoded,
        device=device,
        start=starts,
        shape=extents,
        axis_names="WH",
        adjust_orientation=False,  # or the windows of turned photographs lie outside: it raised, or crashed (measured)
        jpeg_fancy_upsampling=True,  # as Pillow; on the CPU it always is
        **(MEMORY if device == "mixed" else {}),
    )
    cubic = plan.interpolation == "bicubic"
    kind = types.INTERP_CUBIC if cubic else types.INTERP_TRIANGULAR
    images = fn.resize(images, size=sizes, interp_type=kind, antialias=True)
    if corners:
        window = {"start": corners[0], "shape": [plan.side(0)] * 2, "axis_names": "WH"}
        images = fn.slice(images, **window, out_of_bounds_policy="pad", fill_values=0)
    return fn.flip(images, horizontal=flips)


def _fed(plan: Plan) -> int:
    """How many of DIMENSIONS DALI needs for this plan."""
    return len(DIMENSIONS) - plan.shows_all


class _Belt:
    """The batches in order: those next in line, then those `inside` DALI."""

    def __init__(self, feeds: Iterator[Feed]) -> None:
        self._feeds = feeds
        self._first: deque[Feed] = deque()  # before all of `_feeds`
        self.inside: deque[Feed] = deque()

    def next_size(self) -> int:
        """How many images the next batch has; 0 if there is none."""
        if not self._first:
            self._first.extend(islice(self._feeds, 1))
        return len(self._first[0].making.indices) if self._first else 0

    def take(self, size: int) -> Columns:
        """What DALI is given next. StopIteration if there is nothing, or more than `size` images at once."""
        if not 0 < self.next_size() <= size:
            raise StopIteration
        self.inside.append(self._first.popleft())
        return self.inside[-1].columns

    def failed(self) -> Feed:
        """The batch that DALI failed on; those after it, which are lost inside, wait again."""
        feed = self.inside.popleft()
        self._first.extendleft(reversed(self.inside))
        self.inside.clear()
        return feed


def _finish(feed: Feed) -> Batch:
    """A batch, of which Pillow makes what DALI did not."""
    feed.making.by_hand(feed.odd)
    return feed.making.batch()


def _blank() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (BLANK, BLANK)).save(file, "JPEG")
    return file.getvalue()


def _reason(error: RuntimeError) -> str:
    """The last paragraph of DALI's message but for its advice, on one line."""
    text = str(error).partition("Current pipeline object")[0].rpartition("encountered:")[2]
    return " ".join(text.split()) or type(error).__name__
