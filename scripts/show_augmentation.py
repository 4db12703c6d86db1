"""A contact sheet of augmentations: a row for each, a column for each epoch, of one training image.

    python -m scripts.show_augmentation --data-dir DIR --output augmentations.png
    python -m scripts.show_augmentation --data-dir DIR --output cutout.png --only cutout --image 7 --img-size 96

The first row is crop and flip alone. In the others the image is shown without them, in the middle of it, so that what
is seen is the augmentation; each row's title has the flags that it is drawn with.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data.loaders import open_training
from data.order import Request
from data.stores import Store
from scripts.drawing import INK, empty_figure, save_png
from utils.config.data import DataConfig
from utils.errors import UsageError
from utils.script import script

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEED = 0
CELL = 1.1  # inches

# Each augmentation as it is usually asked for.
ROWS: dict[str, dict[str, object]] = {
    "crop and flip": {},
    "color-jitter": {"color_jitter": (0.4, 0.4, 0.4, 0.1)},
    "grayscale": {"grayscale": 0.5},
    "gaussian-blur": {"gaussian_blur": 1.0},
    "solarize": {"solarize": 0.5},
    "lighting": {"lighting": 0.1},
    "rotation": {"rotation": 15.0},
    "auto-augment aa": {"auto_augment": "aa"},
    "auto-augment ra": {"auto_augment": "ra"},
    "auto-augment ta": {"auto_augment": "ta"},
    "auto-augment augmix": {"auto_augment": "augmix"},
    "three-augment": {"three_augment": True, "color_jitter": (0.3,)},
    "cutout square": {"cutout": "square"},
    "cutout batch": {"cutout": "batch"},
    "cutout rectangle": {"cutout": "rectangle"},
    "random-erasing const": {"random_erasing": 1.0},
    "random-erasing rand": {"random_erasing": 1.0, "erasing_mode": "rand"},
    "random-erasing pixel": {"random_erasing": 1.0, "erasing_mode": "pixel"},
    "repeated-aug": {"repeated_aug": 8},
}
WITH_CROPS = ("crop and flip", "repeated-aug")
STILL = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "hflip": 0.0, "train_crop": "random-resized"}


@dataclass(frozen=True)
class ShowConfig:
    """Draw a contact sheet of all augmentations."""

    data_dir: Path
    """folder or LMDB with train/"""
    output: Path
    """picture to write, a .png"""
    image: Annotated[int, Field(ge=0)] = 0
    """number of the training image"""
    img_size: Annotated[int, Field(ge=1)] = 128
    """side of the crops, pixels"""
    draws: Annotated[int, Field(ge=1)] = 8
    """columns"""
    only: str = ""
    """rows to draw: those whose title has this in it"""


def draws_of(title: str, config: ShowConfig) -> NDArray[np.uint8]:
    """The image as one row shows it, epoch by epoch: (draws, side, side, 3)."""
    settings = DataConfig(data_dir=str(config.data_dir), img_size=config.img_size, loader="torch", workers=0)
    still = {} if title in WITH_CROPS else STILL
    split = open_training(replace(settings, **{"train_crop": "random-resized"} | still | ROWS[title]), SEED)
    image = np.array([_number(split.store, config.image)])
    requests = [Request(epoch, image) for epoch in range(config.draws)]
    if title == "repeated-aug":  # the places of one epoch that the image fills
        requests = [Request(0, image, np.array([copy])) for copy in range(config.draws)]
    return np.concatenate([batch.images.numpy() for batch in split.loader.batches(requests)])


def draw(config: ShowConfig, titles: list[str]) -> "Figure":
    """The picture, a row for each title."""
    figure = empty_figure((CELL * config.draws, (CELL + 0.25) * len(titles)), "a contact sheet")
    for row, (part, title) in enumerate(zip(np.atleast_1d(figure.subfigures(len(titles), 1)), titles, strict=True)):
        part.suptitle(_caption(title), fontsize=7.5, color=INK, x=0.01, ha="left")
        for axes, pixels in zip(part.subplots(1, config.draws, squeeze=False)[0], draws_of(title, config), strict=True):
            axes.imshow(pixels, interpolation="nearest")
            axes.set_axis_off()
        print(f"{row + 1}/{len(titles)} {title}", flush=True)
    return figure


def show(config: ShowConfig) -> None:
    """Write the contact sheet."""
    if config.output.suffix != ".png" or not config.output.parent.is_dir():
        raise UsageError(f"--output {config.output}: must be a .png in a folder that exists")
    titles = [title for title in ROWS if config.only in title]
    if not titles:
        raise UsageError(f"--only {config.only} is in none of the rows: {', '.join(ROWS)}")
    save_png(draw(config, titles), config.output)
    print(config.output)


def _number(store: Store, image: int) -> int:
    if image >= len(store):
        raise UsageError(f"--image {image}: there are {len(store)} training images, counted from 0")
    return image


def _caption(title: str) -> str:
    """The flags of a row."""
    return "  ".join(_words(name, value) for name, value in ROWS[title].items()) or title


def _words(name: str, value: object) -> str:
    flag = f"--{name.replace('_', '-')}"
    if value is True:
        return flag
    return f"{flag} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"


if __name__ == "__main__":
    script(ShowConfig, show)
