"""MNIST's idx files, written here as their description has it."""

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.origins.mnist import holds, open_mnist
from utils.errors import DataError


def write_mnist(folder: Path, gzipped: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pixels (n, 28, 28) and labels (n,) of both splits, as they were written."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    splits = {}
    for split, name, count in (("train", "train", 40), ("val", "t10k", 15)):
        pixels = rng.integers(256, size=(count, 28, 28), dtype=np.uint8)
        labels = rng.permutation(np.arange(count) % 10).astype(np.uint8)
        files = {
            f"{name}-images-idx3-ubyte": struct.pack(">4I", 0x803, count, 28, 28) + pixels.tobytes(),
            f"{name}-labels-idx1-ubyte": struct.pack(">2I", 0x801, count) + labels.tobytes(),
        }
        for file, content in files.items():
            (folder / (f"{file}.gz" if gzipped else file)).write_bytes(gzip.compress(content) if gzipped else content)
        splits[split] = pixels, labels
    return splits


@pytest.mark.parametrize("gzipped", [True, False])
@pytest.mark.parametrize("below", ["", "raw", "FashionMNIST/raw"])
def test_published_files_come_out_pixel_by_pixel(gzipped: bool, below: str, tmp_path: Path):
    written = write_mnist(tmp_path / below, gzipped)
    assert holds(tmp_path)
    origins = open_mnist(tmp_path)
    for split, (pixels, labels) in written.items():
        origin = origins[split]
        assert origin.classes == tuple("0123456789") and origin.labels.tolist() == sorted(labels.tolist())
        for index, place in enumerate(np.argsort(labels, kind="stable")):
            picture = Image.open(io.BytesIO(origin.read(index)))
            assert (picture.format, picture.mode) == ("PNG", "L")
            assert np.array_equal(np.asarray(picture), pixels[place])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", b"<html>not found</html>", "no idx file"),
        ("train-images-idx3-ubyte", struct.pack(">4I", 0x803, 40, 28, 28) + bytes(99), "truncated copy"),
        ("t10k-labels-idx1-ubyte", struct.pack(">2I", 0x801, 2) + bytes(2), "15 images, .* 2 labels"),
        ("t10k-labels-idx1-ubyte", b"", "no idx file"),
    ],
)
def test_damage_is_told_by_the_file(name: str, content: bytes, message: str, tmp_path: Path):
    write_mnist(tmp_path, False)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        open_mnist(tmp_path)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_gzip_is_told_by_the_file(tmp_path: Path):
    write_mnist(tmp_path, True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz cannot be read"):
        open_mnist(tmp_path)
