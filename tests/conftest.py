"""One thread for small tensors, and images for the tests that train, as folder and as LMDB."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it when it is first imported, as torchvision does

from models import build_model
from scripts.generate_lmdb import BuildConfig, generate
from utils.config import ModelConfig

CLASSES, TRAIN, VAL, SIDE = 4, 40, 197, 16


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """On a busy machine two threads wait for each other longer than they compute: 24 s against 139 s were seen."""
    torch.set_num_threads(1)


def _draw(folder: Path, count: int, seed: int) -> None:
    """`count` images of bright stripes, at an angle that depends on the class, over noise."""
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for number in range(count):
        label = number % CLASSES
        angle = np.pi * label / CLASSES
        wave = np.sin(columns * np.cos(angle) + rows * np.sin(angle) + draw.uniform(0, 6))
        pixels = 128 + 60 * wave[:, :, None] + draw.normal(0, 30, (SIDE, SIDE, 3))
        path = folder / f"class_{label}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=95)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 training images of 4 classes and 197 for validation, 16 px, as a folder."""
    folder = tmp_path_factory.mktemp("images")
    _draw(folder / "train", CLASSES * TRAIN, 0)
    _draw(folder / "val", VAL, 1)
    return folder


@pytest.fixture(scope="session")
def image_lmdb(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images as an LMDB, made by our own script."""
    target = tmp_path_factory.mktemp("lmdb") / "lmdb"
    generate(BuildConfig(image_folder, target, workers=1))
    return target


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a ResNet-20 of 4 classes that was not trained: it need not know anything to be listened to."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("teacher") / "teacher.pth"
    torch.save(build_model(ModelConfig(model="resnet20"), CLASSES).state_dict(), path)
    return path
