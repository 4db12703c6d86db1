"""Which images are seen, and how they are brought to the network."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from tyro.conf import arg

from utils.config.augmentation import AugmentationConfig, Positive, Share
from utils.config.strict import STRICT

Pixels = Annotated[int, Field(ge=1)]
Epoch = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, config=STRICT)
class DataConfig(AugmentationConfig):
    """Which images are seen, and how they are brought to the network."""

    data_dir: Annotated[str | None, arg(aliases=["--data-path"])] = None
    """folder or LMDB with train/ and val/ (or test/); which of the two is recognised"""
    loader: Literal["auto", "native", "torch", "dali-cpu", "dali-gpu", "synthetic"] = "auto"
    """engine that carries out the plan; auto: native where it was built, else torch; synthetic: for speed only"""
    workers: Annotated[int | None, Field(ge=0), arg(aliases=["-j", "--num-workers"])] = None
    """loader threads (torch: processes) per GPU; its share of the cores if not given; 0 loads only when asked"""
    on_bad_image: Literal["error", "skip"] = "error"
    """error stops the run; skip replaces a bad image by another (validation: leaves it out) and counts it"""
    bad_image_budget: Annotated[int, Field(ge=0)] = 100
    """skip: bad images per epoch, on average, before the run stops after all"""
    shuffle: Literal["full", "blocks"] = "full"
    """order of an epoch: any image next; or blocks of neighbours: kinder to slow disks, but mixes fewer classes"""
    shuffle_block: Annotated[int, Field(ge=1)] = 256
    """blocks: neighbouring images in one, mostly of one class"""
    shuffle_window: Annotated[int, Field(ge=1)] = 64
    """blocks: how many of them are mixed, image by image"""
    img_size: Pixels = 224
    """side of a training crop, pixels"""
    img_size_start: Pixels | None = None
    """side of the training crops of the first epochs, pixels; they grow over --img-size-ramp to --img-size"""
    img_size_ramp: tuple[Epoch, Epoch] | None = None
    """last epoch of --img-size-start, and first of --img-size, counted from 0; between them in steps of 32 pixels"""
    train_crop: Literal["auto", "random-resized", "pad"] = "auto"
    """random-resized (ImageNet) or pad (small images); auto is pad up to 64 pixels"""
    scale: tuple[Share, Share] = (0.08, 1.0)
    """random-resized: share of the image's area, smallest and largest"""
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """random-resized: width over height, smallest and largest"""
    pad: Annotated[int, Field(ge=0)] = 4
    """pad: pixels added on each side before the crop"""
    hflip: Share = 0.5
    """probability of a horizontal flip"""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """filter of every resize, antialiased"""
    val_resize: Pixels | None = None
    """validation: shorter side before the centre crop, pixels; crop / 0.875 (or the crop, with pad) if not given"""
    val_crop: Pixels | None = None
    """validation: side of the centre crop, pixels; --img-size if not given"""
    mean: tuple[float, float, float] | None = None
    """mean of the channels R G B, in [0, 1]; if not given that which verify_lmdb kept in the LMDB, else ImageNet's"""
    std: tuple[Positive, Positive, Positive] | None = None
    """standard deviation of the channels R G B, in [0, 1]; as --mean"""
    synthetic_images: Annotated[int, Field(ge=1)] = 10_000
    """synthetic: images in an epoch; validation has a tenth"""
    synthetic_classes: Annotated[int, Field(ge=1)] = 1000
    """synthetic: classes"""
