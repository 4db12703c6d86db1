"""The first steps of a recipe on a few small images of noise: does it run at all?"""

import dataclasses
import math
from pathlib import Path

import numpy as np
from PIL import Image

from scripts.assembly import assemble_run
from train_dist import train_step
from utils import distributed
from utils.config import Config
from utils.ending import Ending
from utils.errors import NumericsError

IMAGES, CLASSES = 8, 2  # of each split and class
LARGEST = 64  # pixels of an image's side, which leaves 2 of a network that halves five times
BATCH, SHARDS = 2, 2
NOISE_SEED = 0


def write_noise(folder: Path) -> Path:
    """An image folder with train/ and val/ of noise."""
    draw = np.random.default_rng(NOISE_SEED)
    for number in range(IMAGES * CLASSES):
        for split in ("train", "val"):
            path = folder / split / f"class_{number % CLASSES}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (LARGEST, LARGEST, 3), dtype=np.uint8)).save(path)
    return folder


def shrunk(config: Config, images: Path, folder: Path) -> Config:
    """The same recipe for small images, small shards and a CPU."""
    side = min(config.data.img_size, LARGEST)
    data = dataclasses.replace(
        config.data, data_dir=str(images), loader="torch", workers=0, img_size=side, val_resize=None, val_crop=None
    )
    if config.data.img_size > LARGEST:  # which auto would pad now
        data = dataclasses.replace(data, train_crop="random-resized")
    if data.img_size_start is not None:
        data = dataclasses.replace(data, img_size_start=side // 2)
    shards = 1 if config.model.norm == "syncbn" else SHARDS  # which asks for as many processes as shards
    training = dataclasses.replace(
        config.training, batch_size=BATCH, shards=shards, grad_accum_steps=None, precision="fp32", device="cpu"
    )
    run = dataclasses.replace(config.run, output_dir=str(folder))
    contract = dataclasses.replace(config.contract, top1=())
    return dataclasses.replace(config, data=data, training=training, run=run, contract=contract)


def rehearse(config: Config, steps: int) -> float:
    """The mean loss of so many steps of a shrunk recipe. NumericsError if it is not finite."""
    ending = Ending()
    ending.world = distributed.start(config.training)
    run = assemble_run(config, ending)
    run.open()
    run.network.model.train()
    batches = run.batches()
    for step in range(steps):
        train_step(run, batches, step)
    values, _ = run.sums.read(ending.world)
    run.telling.flush()
    loss = values.get("train/loss", math.nan)
    if not math.isfinite(loss):
        raise NumericsError(f"the loss is {loss} after {steps} steps")
    return loss
