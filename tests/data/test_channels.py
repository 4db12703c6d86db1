"""Mean and standard deviation of the channels, against numpy in float64, and which of them a run uses."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.channels import IMAGENET, count_values, mean_and_std, with_channels
from data.lmdb_format import write_meta
from data.stores import open_store
from utils.config.data import DataConfig

KEPT = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}


def test_mean_and_deviation_are_those_of_all_pixels():
    rng = np.random.default_rng(0)
    images = [rng.integers(low, 256, (height, 30, 3), dtype=np.uint8) for low, height in ((0, 7), (100, 90), (200, 33))]
    mean, std = mean_and_std(sum(count_values(Image.fromarray(image)) for image in images))
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]).astype(np.float64) / 255
    assert mean == pytest.approx(pixels.mean(axis=0), abs=1e-6)
    assert std == pytest.approx(pixels.std(axis=0), abs=1e-6)


def test_what_is_given_is_used_before_what_is_kept_and_that_before_imagenets(
    folder: Path, lmdb_of: Callable[[Path], Path]
):
    built = lmdb_of(folder)
    assert _used(DataConfig(), folder) == IMAGENET
    assert _used(DataConfig(), built) == IMAGENET
    write_meta(built / "train", dataclasses.replace(open_store(built, "train").meta, **KEPT))
    assert _used(DataConfig(), built) == KEPT
    given = (0.7, 0.8, 0.9)
    assert _used(DataConfig(mean=given), built) == KEPT | {"mean": given}
    assert _used(DataConfig(mean=given, std=given), folder) == {"mean": given, "std": given}


def _used(config: DataConfig, data_dir: Path) -> dict[str, object]:
    chosen = with_channels(config, open_store(data_dir, "train"))
    assert dataclasses.replace(chosen, mean=config.mean, std=config.std) == config
    return {"mean": chosen.mean, "std": chosen.std}
