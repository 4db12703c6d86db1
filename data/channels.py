"""Mean and standard deviation of the channels, in [0, 1]: how they are measured, and which of them a run uses."""

import dataclasses

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from data.batches import Channels
from data.lmdb_store import LmdbStore
from data.stores import Store
from utils.config.data import DataConfig

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # as torchvision and timm have them
DIGITS = 6  # kept of each number
VALUES = np.arange(256)


def count_values(image: Image) -> NDArray[np.int64]:
    """How many pixels of an RGB image have each value: (3, 256). Exact, whatever is added up and in whatever order."""
    return np.array(image.histogram(), dtype=np.int64).reshape(3, 256)


def mean_and_std(counts: NDArray[np.int64]) -> tuple[Channels, Channels]:
    """Of all pixels that were counted, (3, 256): each pixel weighs as much as another, whatever its image's size."""
    pixels = counts.sum(axis=1)
    mean = counts @ VALUES / pixels
    variance = (counts * (VALUES - mean[:, None]) ** 2).sum(axis=1) / pixels
    return _rounded(mean / 255), _rounded(np.sqrt(variance) / 255)


def with_channels(config: DataConfig, train: Store) -> DataConfig:
    """The settings with `mean` and `std` filled in, so that a checkpoint says what its network was trained with.

    They are what the user gave, else what verify_lmdb kept with the training images, else ImageNet's.
    """
    kept = dataclasses.asdict(train.meta) if isinstance(train, LmdbStore) else {}
    chosen = {name: getattr(config, name) or kept.get(name) or usual for name, usual in IMAGENET.items()}
    return dataclasses.replace(config, **chosen)


def _rounded(numbers: NDArray[np.float64]) -> Channels:
    red, green, blue = (round(number, DIGITS) for number in numbers.tolist())
    return red, green, blue
