"""FFCV as ffcv-imagenet uses it, and the writer of its file.

    python -m scripts.loader_benchmark.with_ffcv FOLDER FILE PROPORTION PROCESSES    # PROPORTION of JPEGs

ffcv-imagenet normalizes on the GPU; on a CPU the same operation has to come before the tensor.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.reader import Reader
from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage
from ffcv.writer import DatasetWriter
from torchvision.datasets import ImageFolder

from scripts.loader_benchmark.contenders import PEERS, PIXELS, Setup

MEAN, STD = 255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])
EPOCH = 1000  # batches: images of a small sample are listed several times, so that its epoch does not end every second
MOST_PIXELS, QUALITY = 500, 90  # of the longer side, and of the JPEGs: those of ffcv-imagenet's ResNet-50


def write(folder: str, path: str, proportion: float, processes: int) -> None:
    """Write the images of `folder`; `proportion` of them as JPEGs, the others as raw pixels."""
    image = RGBImageField("proportion", MOST_PIXELS, jpeg_quality=QUALITY, compress_probability=proportion)
    writer = DatasetWriter(path, {"image": image, "label": IntField()}, num_workers=processes)
    writer.from_indexed_dataset(ImageFolder(folder))


def _stream(name: str, setup: Setup) -> Iterator[int]:
    normalize = [] if PEERS[name].makes == PIXELS else [NormalizeImage(MEAN, STD, np.float32)]
    crop = RandomResizedCropRGBImageDecoder((setup.img_size, setup.img_size))
    pipelines = {
        "image": [crop, RandomHorizontalFlip(), *normalize, ToTensor(), ToTorchImage()],
        "label": [IntDecoder(), ToTensor(), Squeeze()],
    }
    count = int(Reader(setup.path).num_samples)
    loader = Loader(
        setup.path,
        setup.batch_size,
        setup.workers,
        os_cache=True,
        order=OrderOption.RANDOM,
        indices=np.tile(np.arange(count, dtype=np.uint64), -(-EPOCH * setup.batch_size // count)),
        pipelines=pipelines,
        drop_last=True,
    )
    while True:
        for _, labels in loader:
            yield len(labels)


STREAMS: dict[str, Callable[[Setup], Iterator[int]]] = {
    name: partial(_stream, name) for name, row in PEERS.items() if row.module == "with_ffcv"
}

if __name__ == "__main__":
    write(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
