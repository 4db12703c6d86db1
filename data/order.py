"""Which image comes when: a pure function of (seed, epoch, step, shard).

Epoch e visits a permutation of the store's indices. Step t of an epoch takes the next V x B of them, shard s of the
step the s-th B of those. So there is no sampler state: a run that goes on at step 1234 asks for the requests from 1234.

Block-shuffled order is for disks that are slow at random access. What it costs is the mix: images are numbered by
class, so a block of neighbours is of one class or two. With 64 blocks of 256, 16,384 images are mixed at a time, which
is how far the page cache has to reach (1.8 GB of ImageNet). They are of about 74 of its 1000 classes, and two of them
are of the same class once in 65 times instead of once in 1000. Smaller blocks and more of them mix better.

Repeated augmentation (Hoffer et al., arXiv 1901.09335; Berman et al., arXiv 1902.05509) fills N places in a row with
each image, drawn anew for each: mostly in the same shard, as there. An epoch keeps its length and its steps, so it
shows only the first 1 / N of its permutation, as in MultiGrain and DeiT. (timm and torchvision deal the N out to
different GPUs.)
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from utils.config.data import DataConfig
from utils.errors import UsageError
from utils.randomness import ORDER, generator


class Request(NamedTuple):
    """One batch to load: the numbers of its images in the store, and the epoch that their crops are drawn for.

    Where an epoch shows images several times, `copies` says which time it is, from 0.
    """

    epoch: int
    indices: NDArray[np.int64]
    copies: NDArray[np.int64] | None = None


def permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order in which one epoch visits `count` images; 70 ms for the 1.28 million of ImageNet."""
    return generator(seed, ORDER, epoch).permutation(count)


@dataclass(frozen=True)
class Order:
    """How the epochs of a run visit `count` images.

    With `block`, blocks of so many neighbours (the last may be shorter) are permuted, and the images of each `window`
    consecutive blocks are mixed. Without it any image may come next. An image comes `repeats` times in a row.
    """

    seed: int
    count: int
    block: int | None = None
    window: int = 1
    repeats: int = 1

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """Every image once, in the order of one epoch: (count,)."""
        if self.block is None:
            return permutation(self.seed, epoch, self.count)
        draw = generator(self.seed, ORDER, epoch)
        firsts = self.block * draw.permutation(-(-self.count // self.block))
        windows = [self._images(firsts[place : place + self.window]) for place in range(0, len(firsts), self.window)]
        return np.concatenate([draw.permutation(images) for images in windows])

    def _images(self, firsts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The images of the blocks that begin with `firsts`."""
        images = (firsts[:, None] + np.arange(min(self.block, self.count))).ravel()
        return images[images < self.count]


def training_order(config: DataConfig, seed: int, count: int) -> Order:
    """The order that the settings ask for. UsageError if a setting of blocks is given where there are none."""
    if config.shuffle == "blocks":
        return Order(seed, count, config.shuffle_block, config.shuffle_window, config.repeated_aug)
    for name in ("shuffle_block", "shuffle_window"):
        if getattr(config, name) != getattr(DataConfig(), name):
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} has no effect on --shuffle full; leave it out, or choose --shuffle blocks")
    return Order(seed, count, repeats=config.repeated_aug)


def steps_per_epoch(count: int, shards: int, batch_size: int) -> int:
    """Optimizer steps in an epoch; the tail shorter than a global batch is left out. UsageError if nothing remains."""
    steps = count // (shards * batch_size)
    if steps == 0:
        raise UsageError(
            f"{count} training images are fewer than the global batch of {shards} shards x {batch_size} images = "
            f"{shards * batch_size}: an epoch would have 0 steps; use a smaller --batch-size or fewer --shards"
        )
    return steps


def training_requests(
    order: Order, batch_size: int, shards: int, local: range, start: int, stop: int
) -> Iterator[Request]:
    """The batches of the shards `local` (of `shards`) in steps start to stop - 1, counted over the whole run, in order.

    `local` are the shards that this rank carries. Nothing is computed before it is asked for, so 90 epochs cost no more
    than one.
    """
    per_epoch = steps_per_epoch(order.count, shards, batch_size)
    epoch, images = -1, np.empty(0, dtype=np.int64)
    for step in range(start, stop):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            images = order.epoch(epoch)
        for shard in local:
            first = ((step % per_epoch) * shards + shard) * batch_size
            yield _request(epoch, images, order.repeats, first, batch_size)


def _request(epoch: int, images: NDArray[np.int64], repeats: int, first: int, size: int) -> Request:
    """The next `size` places of an epoch from place `first`, each image filling `repeats` of them."""
    if repeats == 1:
        return Request(epoch, images[first : first + size])
    places = np.arange(first, first + size)
    return Request(epoch, images[places // repeats], places % repeats)


def dealt_requests(
    order: Order, batch_size: int, shards: int, place: tuple[int, int], steps: range
) -> Iterator[Request]:
    """The batches of all shards of `steps`, dealt to the ranks one by one: batch j to `place` (j % world, world)."""
    requests = training_requests(order, batch_size, shards, range(shards), steps.start, steps.stop)
    rank, world = place
    return itertools.islice(requests, rank, None, world)


def validation_numbers(count: int, batch_size: int, rank: int, world: int) -> range:
    """The numbers of the validation batches that `rank` of `world` ranks measures: batch j goes to rank j % world."""
    return range(rank, -(-count // batch_size), world)


def validation_requests(count: int, batch_size: int, rank: int, world: int) -> Iterator[Request]:
    """The validation batches `validation_numbers(...)`, in that order, each a run of consecutive images.

    The last batch of all is shorter. What a batch holds does not depend on `world`, so neither do its sums.
    """
    for number in validation_numbers(count, batch_size, rank, world):
        first = number * batch_size
        yield Request(0, np.arange(first, min(first + batch_size, count)))
