"""The limits: libjpeg-turbo alone, in as many threads, on bytes that are in memory, its pixels thrown away.

One decodes only the rows and columns of each crop, the other whole images. No files, no checksums, no resizing, and
nothing in Python: all images of a pass are one call.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, count, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.header import read_jpeg_header
from data.native_loader import GET_IT, Decoder, is_built
from data.order import training_order
from data.plan import training_plan
from data.stores import open_store
from scripts.loader_benchmark.contenders import CROP_LIMIT, WHOLE_LIMIT, Setup
from scripts.loader_benchmark.engines import SEED, settings
from utils.errors import EnvironmentFault

Image = tuple[bytes, NDArray[np.int64]]  # a JPEG, and its row of views, (9,)


def _stream(whole: bool, setup: Setup) -> Iterator[int]:
    """EnvironmentFault where the C extension, which decodes for both limits, was not built."""
    if not is_built():
        raise EnvironmentFault(f"the C extension was not built; {GET_IT}")
    images = list(islice(_images(setup), setup.images))
    encoded, views = [jpeg for jpeg, _ in images], np.stack([view for _, view in images])
    decoder = Decoder(setup.workers)
    while True:
        yield decoder.measure(encoded, views, whole)


def _images(setup: Setup) -> Iterator[Image]:
    """The images that our engines load, in their order, epoch after epoch; only the plain JPEGs among them."""
    config = settings(setup)
    store, plan = open_store(Path(setup.path), "train"), training_plan(config, SEED)
    order = training_order(config, SEED, len(store))
    kept: dict[int, bytes] = {}  # of several epochs the same bytes, once in memory
    for epoch, index in chain.from_iterable(((epoch, i) for i in order.epoch(epoch).tolist()) for epoch in count()):
        jpeg = kept.setdefault(index, store.read(index))
        header = read_jpeg_header(jpeg, store.name(index))
        if header is not None and header.plain:
            width, height = np.array([[header.width], [header.height]])
            seen = plan.views(epoch, np.array([index]), width, height)
            yield jpeg, np.concatenate([seen.boxes[0], seen.sizes[0], seen.corners[0], seen.flips])


STREAMS: dict[str, Callable[[Setup], Iterator[int]]] = {
    CROP_LIMIT: partial(_stream, False),
    WHOLE_LIMIT: partial(_stream, True),
}
