"""What happens to each image, against torchvision's transforms and their formulas."""

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import CenterCrop, RandomResizedCrop, Resize

from data.plan import Views, training_plan, validation_plan
from utils.config.data import DataConfig
from utils.errors import UsageError

DRAWS = 20_000


def drawn(width: int, height: int, count: int = DRAWS, **settings: object) -> Views:
    """The views of `count` images of one size under the training plan of `settings`."""
    plan = training_plan(DataConfig(**settings), seed=3)
    size = np.full(count, 1, dtype=np.int64)
    return plan.views(0, np.arange(count), width * size, height * size)


def largest_gap(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> float:
    """The Kolmogorov-Smirnov statistic: the largest difference of two distribution functions."""
    points = np.union1d(ours, theirs)
    share = [np.searchsorted(np.sort(sample), points, side="right") / len(sample) for sample in (ours, theirs)]
    return float(np.abs(share[0] - share[1]).max())


@pytest.mark.parametrize(("width", "height"), [(500, 375), (333, 500), (64, 64), (300, 40)])
def test_random_resized_boxes_are_distributed_as_torchvisions(width: int, height: int):
    torch.manual_seed(0)
    image = Image.new("L", (width, height))
    crop = RandomResizedCrop(224)
    top, left, down, across = np.array([crop.get_params(image, crop.scale, crop.ratio) for _ in range(4000)]).T
    theirs = np.stack([left, top, across, down, across * down], axis=1)
    boxes = drawn(width, height).boxes
    ours = np.column_stack([boxes, boxes[:, 2] * boxes[:, 3]])
    # With 20,000 and 4,000 draws a gap of 0.034 comes by chance less than once in a thousand.
    assert max(largest_gap(ours[:, column], theirs[:, column]) for column in range(5)) < 0.034


def test_random_resized_boxes_lie_in_the_image_and_keep_scale_and_ratio():
    left, top, width, height = drawn(500, 375, scale=(0.2, 0.5)).boxes.T
    assert left.min() >= 0 and top.min() >= 0 and (left + width).max() <= 500 and (top + height).max() <= 375
    # A pixel of rounding on each side of the shortest box, 168 pixels.
    area, ratio = width * height / (500 * 375), width / height
    assert 0.2 * 0.99 < area.min() < 0.21 and 0.49 < area.max() < 0.5 * 1.01
    assert 0.75 * 0.99 < ratio.min() < 0.76 and 1.31 < ratio.max() < 4 / 3 * 1.01


def test_area_is_uniform_and_the_logarithm_of_the_ratio_is_where_every_attempt_fits():
    width, height = drawn(1000, 1000, scale=(0.1, 0.5)).boxes.T[2:]
    area, ratio = width * height / 1e6, np.log(width / height)
    # Mean and deviation of uniform numbers; five standard errors of 20,000 draws.
    assert abs(area.mean() - 0.3) < 5 * 0.4 / np.sqrt(12 * DRAWS)
    assert abs(ratio.mean()) < 5 * np.log(16 / 9) / np.sqrt(12 * DRAWS)
    assert abs(ratio.std() - np.log(16 / 9) / np.sqrt(12)) < 0.002


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [(1, 2000, (0, 999, 1, 1)), (3000, 2, (1498, 0, 3, 2)), (1, 1, (0, 0, 1, 1)), (200, 10, (93, 0, 13, 10))],
)
def test_long_images_fall_back_to_the_middle(width: int, height: int, box: tuple[int, ...]):
    boxes = drawn(width, height, count=10, scale=(0.9, 1.0)).boxes
    assert (boxes == box).all()
    crop = RandomResizedCrop(224, scale=(0.9, 1.0))
    top, left, down, across = crop.get_params(Image.new("L", (width, height)), crop.scale, crop.ratio)
    assert (left, top, across, down) == box


def test_pad_crop_shifts_evenly_over_every_offset_and_takes_the_whole_image():
    views = drawn(32, 32, img_size=32, pad=4)
    assert (views.boxes == (0, 0, 32, 32)).all() and (views.sizes == 32).all()
    for column in range(2):
        offsets, counts = np.unique(views.corners[:, column], return_counts=True)
        assert offsets.tolist() == list(range(-4, 5))
        assert np.abs(counts / DRAWS - 1 / 9).max() < 5 * np.sqrt(1 / 9 * 8 / 9 / DRAWS)


def test_pad_crop_takes_the_middle_square_of_an_image_of_another_size():
    views = drawn(50, 40, count=3, img_size=32)
    assert (views.boxes == (5, 0, 40, 40)).all() and (views.sizes == 32).all()


@pytest.mark.parametrize(("size", "crop", "pads"), [(64, "auto", True), (65, "auto", False), (224, "pad", True)])
def test_automatic_crop_pads_up_to_64_pixels(size: int, crop: str, pads: bool):
    boxes = drawn(200, 200, count=50, img_size=size, train_crop=crop).boxes
    assert (boxes == (0, 0, 200, 200)).all() == pads


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_flips_have_their_probability(share: float):
    flips = drawn(64, 64, hflip=share).flips
    assert abs(flips.mean() - share) <= 5 * np.sqrt(share * (1 - share) / DRAWS)


def test_the_plan_of_an_image_depends_on_seed_epoch_and_index_only():
    plan = training_plan(DataConfig(), seed=3)
    indices = np.array([9, 2, 77])
    widths, heights = np.array([500, 300, 40]), np.array([375, 400, 60])
    together = plan.views(1, indices, widths, heights)
    for row in range(3):
        alone = plan.views(1, indices[[row]], widths[[row]], heights[[row]])
        assert all(np.array_equal(a[0], b[row]) for a, b in zip(alone, together, strict=True))
    others = (
        plan.views(2, indices, widths, heights),
        dataclasses.replace(plan, seed=4).views(1, indices, widths, heights),
    )
    assert all((other.boxes != together.boxes).any() for other in others)


def test_crops_do_not_change_when_flips_are_turned_off():
    assert np.array_equal(drawn(90, 70, hflip=0.0).boxes, drawn(90, 70).boxes)


@pytest.mark.parametrize(("width", "height"), [(500, 375), (333, 500), (257, 256), (100, 1000), (17, 31), (256, 256)])
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (235, 224), (33, 32), (224, 224)])
def test_validation_sizes_and_corners_are_torchvisions(width: int, height: int, resize: int, crop: int):
    plan = validation_plan(DataConfig(val_resize=resize, val_crop=crop))
    views = plan.views(0, np.array([0]), np.array([width]), np.array([height]))
    # An image whose red is its column and whose green is its row, modulo 256, shows where a crop was taken.
    resized = Resize(resize)(Image.new("L", (width, height)))
    assert views.sizes[0].tolist() == list(resized.size)
    x, y = np.meshgrid(np.arange(resized.width) % 256, np.arange(resized.height) % 256)
    marked = CenterCrop(crop)(Image.fromarray(np.stack([x, y, 0 * x], axis=2).astype(np.uint8)))
    assert (views.corners[0] % 256).tolist() == list(marked.getpixel((0, 0))[:2])


def test_validation_bounds_what_a_very_long_image_is_resized_to():
    plan = validation_plan(DataConfig())
    views = plan.views(0, np.arange(2), np.array([1, 65500]), np.array([65500, 1]))
    assert views.sizes.max() == 16 * 256
    assert views.boxes.tolist() == [[0, 32742, 1, 16], [32742, 0, 16, 1]]


@pytest.mark.parametrize(
    ("settings", "resize", "side"),
    [
        ({}, 256, 224),
        ({"img_size": 32}, 32, 32),
        ({"img_size": 160}, 183, 160),
        ({"img_size": 160, "val_crop": 224}, 256, 224),
        ({"val_resize": 232}, 232, 224),
        ({"train_crop": "pad"}, 224, 224),
    ],
)
def test_validation_defaults(settings: dict[str, object], resize: int, side: int):
    plan = validation_plan(DataConfig(**settings))
    assert (plan.resize, plan.side(0)) == (resize, side)


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(UsageError, match=r"--val-crop 288 is larger than --val-resize 256"):
        validation_plan(DataConfig(val_resize=256, val_crop=288))
    with pytest.raises(UsageError, match=r"--scale 0.9 0.1"):
        training_plan(DataConfig(scale=(0.9, 0.1)), 0)
    with pytest.raises(UsageError, match=r"--ratio 2 1"):
        training_plan(DataConfig(ratio=(2.0, 1.0)), 0)
