"""Small data sets made on the spot, and those of ../shared where it is there."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.lmdb_writer import build
from data.stores import open_store

SHARED = Path(__file__).resolve().parents[2].parent / "shared"


def _picture(seed: int, width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Coloured waves, which JPEG keeps well, of a size and phase of their own."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    waves = [127 + 120 * np.sin(x * rng.uniform(0.05, 0.3) + y * rng.uniform(0.05, 0.3)) for _ in range(3)]
    return Image.fromarray(np.stack(waves, axis=2).astype(np.uint8)).convert(mode)


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """Makes an image: picture(seed, width, height, mode)."""
    return _picture


@pytest.fixture
def encoded() -> Callable[..., bytes]:
    """Encodes an image: encoded(image, format, **options)."""

    def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    return encode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image folder: 3 classes, 12 training and 7 validation JPEGs of different sizes."""
    for split, count in (("train", 12), ("val", 7)):
        for number in range(count):
            path = tmp_path / "folder" / split / "abc"[number % 3] / f"{number:02d}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            _picture(number, 40 + 7 * number, 90 - 4 * number).save(path)
    return tmp_path / "folder"


@pytest.fixture
def lmdb_of(tmp_path: Path) -> Callable[[Path], Path]:
    """Builds the LMDB of an image folder."""

    def generate(source: Path) -> Path:
        sources = {"train": open_store(source, "train"), "val": open_store(source, "val")}
        build(sources, tmp_path / "lmdb", 0, lambda split, done: None)
        return tmp_path / "lmdb"

    return generate


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 500 real JPEGs of ../shared/data, a folder for each class."""
    import tarfile

    archive = SHARED / "data" / "imagenet-sample.tar"
    if not archive.exists():
        pytest.skip(f"{archive} is not there")
    target = tmp_path_factory.mktemp("photographs")
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    return target / "imagenet-sample"
