"""webdataset as in its ImageNet example: resampled shards, a shuffle buffer, Pillow, batches made in the workers.

The example mixes the workers' batches once more in the main process; that is left out, for it only costs time.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import webdataset
from torchvision.transforms import Compose, Normalize, PILToTensor, RandomHorizontalFlip, RandomResizedCrop, ToTensor

from scripts.loader_benchmark.contenders import Setup

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BUFFER = 1000  # encoded images that are mixed
LAST = {"webdataset": (ToTensor(), Normalize(MEAN, STD)), "webdataset-uint8": (PILToTensor(),)}


def _stream(name: str, setup: Setup) -> Iterator[int]:
    shards = [str(path) for path in sorted(Path(setup.path).glob("*.tar"))]
    transform = Compose([RandomResizedCrop(setup.img_size), RandomHorizontalFlip(), *LAST[name]])
    images = webdataset.WebDataset(shards, resampled=True, shardshuffle=False).shuffle(BUFFER).decode("pil")
    batches = images.to_tuple("jpg", "cls").map_tuple(transform, int).batched(setup.batch_size)
    for _, labels in webdataset.WebLoader(batches, batch_size=None, num_workers=setup.workers):
        yield len(labels)


STREAMS: dict[str, Callable[[Setup], Iterator[int]]] = {name: partial(_stream, name) for name in LAST}
