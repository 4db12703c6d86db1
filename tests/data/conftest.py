"""Small data sets made on the spot, and those of ../shared where it is there."""

import io
import struct
import zlib
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


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    """Makes an image: picture(seed, width, height, mode)."""
    return _picture


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """Encodes an image: encoded(image, format, **options)."""

    def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    return encode


def _png(side: int, bits: int, color: int, rows: bytes) -> bytes:
    """A PNG file, square, of any rows."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, bits, color, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    chunks = [struct.pack(">I", len(body)) + kind + body for kind, body in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk + struct.pack(">I", zlib.crc32(chunk[4:])) for chunk in chunks)


@pytest.fixture(scope="session")
def deep_png() -> Callable[[int], bytes]:
    """A PNG of 4 x 4 pixels, 16 bits a channel: colour type 0 greyscale, 2 RGB, 6 RGBA, which Pillow cannot write."""
    return lambda color: _png(4, 16, color, (b"\0" + b"\x03\xe8" * 4 * {0: 1, 2: 3, 6: 4}[color]) * 4)


@pytest.fixture(scope="session")
def huge_png() -> bytes:
    """A small PNG whose header claims 30,000 x 30,000 pixels."""
    return _png(30_000, 8, 0, bytes(30_001) * 10)


@pytest.fixture(scope="session")
def claiming() -> Callable[[bytes, int, int], bytes]:
    """A baseline JPEG whose header claims another size: claiming(content, width, height)."""

    def change(content: bytes, width: int, height: int) -> bytes:
        place = content.index(b"\xff\xc0") + 5
        return content[:place] + struct.pack(">HH", height, width) + content[place + 4 :]

    return change


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
