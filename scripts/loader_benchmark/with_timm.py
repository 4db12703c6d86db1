"""timm as its train.py uses it: create_dataset and create_loader, here with crop and flip alone.

No automatic augmentation and no erasing, as they are off by default, and no colour jitter, which is on; bilinear, as
all others. On a CPU the prefetcher has to be off: it exists to normalize on a GPU. What that leaves to the CPU, uint8
batches by its fast collate, is the loader inside of it.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from timm.data import create_dataset, create_loader
from torch.utils.data import DataLoader

from scripts.loader_benchmark.contenders import Setup


def _loader(setup: Setup, prefetcher: bool) -> DataLoader:
    return create_loader(
        create_dataset("", root=setup.path, is_training=True),
        input_size=(3, setup.img_size, setup.img_size),
        batch_size=setup.batch_size,
        is_training=True,
        color_jitter=None,
        interpolation="bilinear",
        num_workers=setup.workers,
        use_prefetcher=prefetcher,
        # Workers go on over the end of an epoch, which in a small sample comes every second.
        use_multi_epochs_loader=True,
        device=torch.device("cpu"),
    )


def _floats(setup: Setup) -> DataLoader:
    return _loader(setup, prefetcher=False)


def _pixels(setup: Setup) -> DataLoader:
    return _loader(setup, prefetcher=True).loader


def _stream(make: Callable[[Setup], DataLoader], setup: Setup) -> Iterator[int]:
    loader = make(setup)
    while True:
        for _, labels in loader:
            yield len(labels)


STREAMS: dict[str, Callable[[Setup], Iterator[int]]] = {
    "timm": partial(_stream, _floats),
    "timm-uint8": partial(_stream, _pixels),
}
