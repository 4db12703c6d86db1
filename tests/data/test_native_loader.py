"""The native engine against Pillow, and against damaged files."""

import io
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.batches import Batch
from data.loaders import open_data, open_training, open_validation
from data.native_loader import NativeLoader
from data.order import Order, Request, training_requests
from scripts.fuzz_decoder import FuzzConfig, fuzz
from utils.config.data import DataConfig
from utils.errors import DataError, EnvironmentFault

region_decoder = pytest.importorskip("data.region_decoder")
EXACT = 0.03  # mean difference of 255: nothing but the rounding of weights to 16 bits


def settings(data_dir: Path, loader: str = "native", **others: object) -> DataConfig:
    return DataConfig(**{"data_dir": str(data_dir), "loader": loader, "workers": 1, "img_size": 72} | others)


def loaded(data_dir: Path, loader: str, opener: Callable = open_training, **others: object) -> Batch:
    """All images of a split in one batch."""
    split = opener(settings(data_dir, loader, **others), seed=3)
    return next(split.loader.batches([Request(1, np.arange(len(split.store)))]))


def difference(data_dir: Path, opener: Callable = open_training, **others: object) -> np.ndarray:
    """Mean absolute difference to the torch engine, of 255, for each image."""
    native, torch_ = (loaded(data_dir, loader, opener, **others) for loader in ("native", "torch"))
    assert all(torch.equal(a, b) for a, b in zip(native[1:], torch_[1:], strict=True))
    return (native.images.double() - torch_.images.double()).abs().mean(dim=(1, 2, 3)).numpy()


VIEWS = {
    "crop": {"train_crop": "random-resized"},
    "upsampled crop": {"train_crop": "random-resized", "img_size": 200},
    "bicubic": {"train_crop": "random-resized", "interpolation": "bicubic"},
    "padded": {"train_crop": "pad", "pad": 9, "img_size": 48, "val_resize": 50, "val_crop": 48},
    "never flipped": {"hflip": 0.0},
    "always flipped": {"hflip": 1.0, "img_size": 33},
}


@pytest.mark.parametrize("others", VIEWS.values(), ids=VIEWS.keys())
@pytest.mark.parametrize("opener", [open_training, open_validation])
def test_pixels_are_pillows_but_for_rounding(opener: Callable, others: dict[str, object], folder: Path):
    found = difference(folder, opener, **others)
    # Pillow 12 up resizes downwards first where that is less work, which rounds in another order: 0.25 at most.
    assert np.median(found) < 0.25 and found.max() < 0.4


def test_a_box_shrunk_much_is_shrunk_by_the_dct_first(folder: Path):
    assert difference(folder, open_validation, img_size=1).max() < 3


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_window_shows_what_pillow_shows_of_the_whole(subsampling: str, progressive: bool, picture: Callable):
    image = picture(5, 301, 203)
    image = Image.fromarray(np.asarray(image) // 2 + np.random.default_rng(0).integers(0, 99, (203, 301, 3), np.uint8))
    file = io.BytesIO()
    options = {"restart_marker_blocks": 5} if progressive else {}
    image.save(file, "JPEG", subsampling=subsampling, progressive=progressive, quality=80, **options)
    decoder, whole = region_decoder.Decoder(1), np.asarray(Image.open(file).convert("RGB"))
    draw = np.random.default_rng(1)
    for _ in range(60):
        width = height = int(draw.integers(1, 200))
        left, top = int(draw.integers(302 - width)), int(draw.integers(204 - height))
        pixels, status = np.zeros((1, width, width, 3), np.uint8), np.zeros(1, np.int32)
        views = np.array([[left, top, width, height, width, height, 0, 0, 0]])
        decoder.render([file.getvalue()], -1, np.zeros((1, 3), np.int64), views, False, pixels, status)
        assert status[0] == 0
        assert np.array_equal(pixels[0], whole[top : top + height, left : left + width])


def test_photographs_are_pillows_but_for_rounding(photographs: Path, tmp_path: Path):
    (tmp_path / "val").symlink_to(photographs)
    others = {"img_size": 224, "val_crop": 224}
    found = difference(tmp_path, open_validation, **others)
    assert found.mean() < EXACT and found.max() < 0.3


def test_batches_are_the_same_for_any_number_of_threads_and_from_folder_or_lmdb(folder: Path, lmdb_of: Callable):
    def epochs(data_dir: Path, workers: int) -> list[Batch]:
        train = open_data(settings(data_dir, workers=workers), seed=1).train
        return list(train.loader.batches(training_requests(Order(1, len(train.store)), 2, 2, range(2), 0, 9)))

    expected = epochs(folder, 0)
    assert len(expected) == 18
    for data_dir in (folder, lmdb_of(folder)):
        for workers in (0, 1, 3):
            for left, right in zip(epochs(data_dir, workers), expected, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_loaders_work_side_by_side(folder: Path):
    train, val = open_data(settings(folder, workers=2), seed=1)
    requests = [Request(epoch, np.arange(7)) for epoch in range(4)]
    pairs = zip(train.loader.batches(requests), val.loader.batches(requests), strict=True)
    assert [(len(a.labels), len(b.labels)) for a, b in pairs] == [(7, 7)] * 4


def test_a_loop_that_leaves_early_leaves_nothing_running(folder: Path):
    loader = open_training(settings(folder), seed=1).loader
    batches = loader.batches(Request(0, np.arange(12)) for _ in range(1000))
    next(batches)
    batches.close()
    del loader


def test_small_images_are_read_from_leaf_pages_and_large_from_overflow_pages(tmp_path: Path, lmdb_of: Callable):
    for split in ("train", "val"):
        for number, side in enumerate((4, 32, 300)):
            path = tmp_path / "images" / split / "a" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
            Image.fromarray(noise).save(path, quality=95)
    assert difference(lmdb_of(tmp_path / "images")).max() < 0.4


def test_a_bad_image_stops_the_run_by_name_or_is_replaced_alike_on_every_engine(folder: Path):
    (folder / "train" / "b" / "04.JPEG").write_bytes(b"no image")
    whole = (folder / "train" / "c" / "08.JPEG").read_bytes()
    (folder / "train" / "c" / "08.JPEG").write_bytes(whole[:-200])
    with pytest.raises(DataError, match=r"b/04\.JPEG is no image"):
        loaded(folder, "native")
    batches = {loader: loaded(folder, loader, on_bad_image="skip") for loader in ("native", "torch")}
    for batch in batches.values():
        assert sorted(batch.bad.tolist()) == [5, 10]
        assert len(batch.labels) == 12 and 5 not in batch.indices and 10 not in batch.indices
    assert torch.equal(batches["native"].indices, batches["torch"].indices)
    assert torch.equal(batches["native"].labels, batches["torch"].labels)


def test_a_bad_validation_image_is_left_out(folder: Path):
    (folder / "val" / "b" / "04.JPEG").write_bytes(b"")
    for loader in ("native", "torch"):
        batch = loaded(folder, loader, open_validation, on_bad_image="skip")
        assert len(batch.labels) == len(batch.images) == 6 and batch.bad.tolist() == [4]
        assert batch.indices.tolist() == [0, 1, 2, 3, 5, 6]


def test_a_flipped_byte_in_an_lmdb_is_found_by_its_checksum(folder: Path, lmdb_of: Callable):
    path = lmdb_of(folder) / "train" / "data.mdb"
    content = bytearray(path.read_bytes())
    content[content.index((folder / "train" / "b" / "04.JPEG").read_bytes()) + 700] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"record 00000005 of .*data\.mdb .*crc32"):
        loaded(path.parents[1], "native")
    assert loaded(path.parents[1], "native", on_bad_image="skip").bad.tolist() == [5]


@pytest.mark.parametrize("size", [*range(70), 127, 128, 129, 1000, 65_537])
def test_checksum_is_zlibs(size: int, tmp_path: Path):
    """Told from a file's end that is read or refused by its checksum: nothing of it is a JPEG."""
    content = np.random.default_rng(size).bytes(size)
    path = tmp_path / "file"
    path.write_bytes(b"head" + content)
    decoder, descriptor = region_decoder.Decoder(1), os.open(path, os.O_RDONLY)
    for wrong, expected in ((0, 5), (1, 3)):  # DAMAGED: it came to libjpeg; CHECKSUM
        status = np.zeros(1, np.int32)
        places = np.array([[4, size, zlib.crc32(content) ^ wrong]])
        pixels = np.zeros((1, 8, 8, 3), np.uint8)
        decoder.render(None, descriptor, places, np.ones((1, 9), np.int64), False, pixels, status)
        assert status[0] == expected
    os.close(descriptor)


def test_arrays_of_the_wrong_size_are_refused():
    decoder = region_decoder.Decoder(1)
    good = [np.zeros((2, 3), np.int64), np.ones((2, 9), np.int64), False, np.zeros((2, 8, 8, 3), np.uint8)]
    status = np.zeros(2, np.int32)
    for place, bad in (
        (0, np.zeros((1, 3), np.int64)),
        (1, np.ones((2, 8), np.int64)),
        (3, np.zeros((2, 8, 8), np.uint8)),
    ):
        arguments = [*good[:place], bad, *good[place + 1 :]]
        with pytest.raises(ValueError, match="expected"):
            decoder.render([b"", b""], -1, *arguments, status)
    with pytest.raises(ValueError, match="encoded"):
        decoder.render([b""], -1, *good, status)
    with pytest.raises(ValueError, match="threads"):
        region_decoder.Decoder(0)


def test_damaged_jpegs_neither_crash_nor_hang(capfd: pytest.CaptureFixture[str]):
    assert fuzz(FuzzConfig(count=400, seed=11)) == 0
    assert "400 damaged JPEGs" in capfd.readouterr().out


def test_without_the_extension_native_is_refused_and_auto_is_torch(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("data.native_loader.Decoder", None)
    with pytest.raises(EnvironmentFault, match=r"--loader native was not built here; apt install"):
        open_training(settings(folder), seed=1)
    assert not isinstance(open_training(settings(folder, "auto"), seed=1).loader, NativeLoader)
