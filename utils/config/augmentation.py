"""What is done to training images besides crop and flip."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from tyro.conf import arg

from utils.config.strict import STRICT

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Grey = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True, config=STRICT)
class AugmentationConfig:
    """What is done to training images besides crop and flip, all of it drawn from (seed, epoch, image)."""

    color_jitter: tuple[NotNegative, ...] = ()
    """largest change of brightness, contrast, saturation and hue, shares; one number is the first three, without hue"""
    color_jitter_prob: Share = 1.0
    """color-jitter: probability"""
    grayscale: Annotated[Share, arg(aliases=["--grayscale-prob"])] = 0.0
    """probability of an image without colours"""
    gaussian_blur: Annotated[Share, arg(aliases=["--gaussian-blur-prob"])] = 0.0
    """probability of a Gaussian blur"""
    blur_sigma: tuple[Positive, Positive] = (0.1, 2.0)
    """gaussian-blur, three-augment: standard deviation, smallest and largest, pixels"""
    solarize: Annotated[Share, arg(aliases=["--solarize-prob"])] = 0.0
    """probability of inverting the bright values"""
    solarize_threshold: Grey = 128
    """solarize, three-augment: the darkest value that is inverted, of 255"""
    lighting: Annotated[NotNegative, arg(aliases=["--pca-std"])] = 0.0
    """AlexNet's shift along ImageNet's principal colours: standard deviation, usually 0.1; 0 is off"""
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """largest turn to either side, degrees"""
    auto_augment: Annotated[Literal["aa", "ra", "ta", "augmix"] | None, arg(aliases=["--aa"])] = None
    """AutoAugment, RandAugment, TrivialAugment (wide) or AugMix"""
    aa_policy: Literal["imagenet", "cifar10", "svhn"] = "imagenet"
    """aa: the data set that its policies were learned on"""
    ra_magnitude: Annotated[float, Field(ge=0, le=30)] = 9.0
    """ra: strength from 0 to 30, as torchvision counts; timm's m9 of 10 is 27 here"""
    ra_ops: Annotated[int, Field(ge=1), arg(aliases=["--ra-num-ops"])] = 2
    """ra: operations one after the other"""
    augmix_severity: Annotated[int, Field(ge=1, le=10)] = 3
    """augmix: largest strength of an operation"""
    aa_fill: Grey | None = None
    """auto-augment: grey that turns and shifts uncover; black if not given"""
    three_augment: bool = False
    """DeiT III: each image is made grey, solarized or blurred"""
    cutout: Literal["square", "batch", "rectangle"] | None = None
    """cover a square of each image, a square at the same place of a whole batch, or a rectangle of random size"""
    cutout_size: Annotated[int | None, Field(ge=2)] = None
    """cutout square, batch: side, pixels; half of the crop's if not given"""
    cutout_prob: Share | None = None
    """cutout: probability; if not given 1 for squares, 0.5 for rectangles"""
    random_erasing: Annotated[Share, arg(aliases=["--random-erase", "--reprob"])] = 0.0
    """probability of erasing a random rectangle"""
    erasing_mode: Annotated[Literal["const", "rand", "pixel"], arg(aliases=["--remode"])] = "const"
    """random-erasing: with the mean colour, one random colour, or a random colour for each pixel"""
    erasing_count: Annotated[int, Field(ge=1), arg(aliases=["--recount"])] = 1
    """random-erasing: rectangles, which share the area"""
    erasing_area: tuple[Share, Share] = (0.02, 0.33)
    """random-erasing: share of the image's area, smallest and largest"""
    erasing_ratio: tuple[Positive, Positive] = (0.3, 3.3)
    """random-erasing: height over width, smallest and largest"""
    repeated_aug: Annotated[int, Field(ge=1), arg(aliases=["--aug-repeats", "--ra-reps"])] = 1
    """times that an image comes, drawn anew, in a row; an epoch stays as long and shows as many times fewer images"""
