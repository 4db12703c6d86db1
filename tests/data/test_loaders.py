"""Batches as every engine makes them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.batches import Batch, Normalizer
from data.loaders import open_data, open_training, open_validation
from data.order import Order, Request, training_requests, validation_requests
from data.torch_loader import TorchLoader
from utils.config.data import DataConfig
from utils.errors import DataError, UsageError


def settings(data_dir: Path | None = None, **others: object) -> DataConfig:
    return DataConfig(**{"data_dir": str(data_dir) if data_dir else None, "img_size": 72, "workers": 0} | others)


def epochs(data_dir: Path, **others: object) -> list[Batch]:
    """All training batches of 3 epochs, and those of validation."""
    train, val = open_data(settings(data_dir, **others), seed=1)
    requests = training_requests(Order(1, len(train.store)), 2, 2, range(2), 0, 9)
    return [*train.loader.batches(requests), *val.loader.batches(validation_requests(len(val.store), 3, 0, 1))]


def same(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a, b) for pair in zip(left, right, strict=True) for a, b in zip(*pair, strict=True)
    )


def test_batches_are_the_same_for_any_number_of_workers_and_from_folder_or_lmdb(folder: Path, lmdb_of: Callable):
    expected = epochs(folder)
    assert [len(batch.labels) for batch in expected] == [2] * 18 + [3, 3, 1]
    built = lmdb_of(folder)
    for data_dir in (folder, built):
        for workers in (0, 1, 2):
            assert same(epochs(data_dir, workers=workers), expected)


def test_a_batch_holds_uint8_pixels_labels_and_numbers(folder: Path):
    train, val = open_data(settings(folder), seed=1)
    batch = next(train.loader.batches([Request(0, np.array([11, 0, 4]))]))
    assert batch.images.shape == (3, 72, 72, 3) and batch.images.dtype == torch.uint8
    assert batch.labels.tolist() == [2, 0, 1] and batch.labels.dtype == torch.int64
    assert batch.indices.tolist() == [11, 0, 4] and batch.indices.dtype == torch.int64
    assert val.store.classes == train.store.classes == ("a", "b", "c")


def test_an_image_looks_the_same_in_whatever_batch_it_is(folder: Path):
    loader = open_training(settings(folder), seed=1).loader
    together = next(loader.batches([Request(2, np.arange(12))]))
    for index in range(12):
        assert torch.equal(next(loader.batches([Request(2, np.array([index]))])).images[0], together.images[index])


def test_another_epoch_shows_other_crops(folder: Path):
    loader = open_training(settings(folder), seed=1).loader
    first, second = loader.batches([Request(epoch, np.arange(12)) for epoch in (0, 1)])
    assert all((a != b).any() for a, b in zip(first.images, second.images, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_named_by_its_path_and_by_its_record(workers: int, folder: Path, lmdb_of: Callable):
    built = lmdb_of(folder)
    (folder / "train" / "b" / "04.JPEG").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"train/b/04\.JPEG is no image but 8 bytes"):
        epochs(folder, workers=workers)
    path = built / "train" / "data.mdb"
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 500] = bytes(500)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"record \d{8} of .*train/data\.mdb"):
        epochs(built, workers=workers)


def test_evaluation_needs_no_training_images(folder: Path):
    (folder / "train").rename(folder / "elsewhere")
    assert len(open_validation(settings(folder), seed=1).store) == 7
    with pytest.raises(UsageError, match="has no train/"):
        open_data(settings(folder), seed=1)


def test_missing_data_dir_is_told():
    with pytest.raises(UsageError, match="--data-dir is not given"):
        open_data(settings(), seed=1)


def test_synthetic_images_depend_on_seed_and_index_only():
    def images(seed: int, indices: list[int]) -> torch.Tensor:
        train = open_training(settings(loader="synthetic", synthetic_images=200, synthetic_classes=7), seed)
        return next(train.loader.batches([Request(0, np.array(indices))])).images

    assert torch.equal(images(3, [5, 150, 9])[1:], images(3, [150, 9]))
    assert not torch.equal(images(3, [5]), images(4, [5]))
    assert images(3, [5]).dtype == torch.uint8 and 120 < images(3, [5]).float().mean() < 135


def test_synthetic_data_have_their_sizes_and_labels():
    config = settings(loader="synthetic", synthetic_images=200, synthetic_classes=7, val_crop=48)
    train, val = open_data(config, seed=3)
    assert (len(train.store), len(val.store), len(val.store.classes)) == (200, 20, 7)
    assert set(train.store.labels.tolist()) == set(range(7))
    batch = next(val.loader.batches([Request(0, np.array([19, 2]))]))
    assert batch.images.shape == (2, 48, 48, 3) and batch.labels.tolist() == val.store.labels[[19, 2]].tolist()
    assert train.store.identity() != val.store.identity()


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # The formula in float64; a few roundings of each format, of values up to 2.7.
    [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 1e-2)],
)
def test_normalizing_is_the_formula_in_channels_last(dtype: torch.dtype, tolerance: float):
    pixels = np.random.default_rng(0).integers(256, size=(2, 5, 4, 3), dtype=np.uint8)
    result = Normalizer(MEAN, STD, torch.device("cpu"), dtype)(torch.from_numpy(pixels))
    expected = ((pixels / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    assert result.dtype == dtype and result.shape == (2, 3, 5, 4)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert np.abs(result.double().numpy() - expected).max() < tolerance


def test_a_batch_decodes_one_image_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A whole batch of decoded photographs would be 190 MB a worker at batch size 256."""
    opened: list[Image.Image] = []
    monkeypatch.setattr("data.source.decode", lambda image, name: opened.append(image) or image.convert("RGB"))
    train = open_training(settings(folder, loader="torch"), seed=1)
    assert isinstance(train.loader, TorchLoader)
    next(train.loader.batches([Request(0, np.arange(12))]))
    with pytest.raises(ValueError, match="closed"):
        opened[0].getpixel((0, 0))
