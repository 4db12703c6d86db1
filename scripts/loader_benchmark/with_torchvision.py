"""torchvision as its reference scripts and PyTorch's ImageNet example use it: ImageFolder and DataLoader.

`torchvision` is the example's: Pillow, then floats in the worker. `torchvision-v2` is the reference scripts' tensor
backend: decoded to a tensor, and v2's transforms on that. With uint8 what comes after the flip is left out.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch.utils.data import DataLoader, RandomSampler
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import (
    Compose,
    Normalize,
    PILToTensor,
    RandomHorizontalFlip,
    RandomResizedCrop,
    ToTensor,
    v2,
)

from scripts.loader_benchmark.contenders import Setup

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FOREVER = 10**12  # images that the sampler gives, epoch after epoch: an epoch of a small sample ends every second
Transform = Callable[[object], torch.Tensor]


def _pillow(side: int, *last: Transform) -> Transform:
    return Compose([RandomResizedCrop(side), RandomHorizontalFlip(), *last])


def _tensors(side: int, *last: Transform) -> Transform:
    return v2.Compose([v2.RandomResizedCrop(side, antialias=True), v2.RandomHorizontalFlip(), *last])


TRANSFORMS: dict[str, Callable[[int], Transform]] = {
    "torchvision": lambda side: _pillow(side, ToTensor(), Normalize(MEAN, STD)),
    "torchvision-uint8": lambda side: _pillow(side, PILToTensor()),
    "torchvision-v2": lambda side: _tensors(side, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)),
    "torchvision-v2-uint8": _tensors,
}


def _decoded(path: str) -> torch.Tensor:
    """(3, h, w) uint8."""
    return decode_image(path, ImageReadMode.RGB)


def _stream(name: str, setup: Setup) -> Iterator[int]:
    reader = {"loader": _decoded} if "v2" in name else {}
    images = ImageFolder(setup.path, TRANSFORMS[name](setup.img_size), **reader)
    sampler = RandomSampler(images, num_samples=FOREVER)
    for _, labels in DataLoader(images, setup.batch_size, sampler=sampler, num_workers=setup.workers):
        yield len(labels)


STREAMS: dict[str, Callable[[Setup], Iterator[int]]] = {name: partial(_stream, name) for name in TRANSFORMS}
