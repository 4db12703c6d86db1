"""Augmentations in the plan: the same pictures however they are made, and no flag without effect."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from data.augmentation.chain import BUILDERS, build_chain
from data.batches import Batch
from data.loaders import open_training
from data.native_loader import is_built
from data.order import Order, Request, training_order, training_requests
from data.plan import training_plan
from scripts.show_augmentation import ROWS
from utils.config import Config
from utils.config.data import DataConfig
from utils.config.parsing import read_config
from utils.errors import UsageError

SEED = 1
ENGINES = ["torch", *(["native"] if is_built() else [])]
AUGMENTED = {title: settings for title, settings in ROWS.items() if settings}
ALL = {
    "color_jitter": (0.4, 0.4, 0.4, 0.1),
    "grayscale": 0.3,
    "gaussian_blur": 0.5,
    "solarize": 0.3,
    "lighting": 0.1,
    "rotation": 20.0,
    "cutout": "batch",
    "random_erasing": 0.5,
    "erasing_mode": "pixel",
    "repeated_aug": 2,
}


def settings(folder: Path, **others: object) -> DataConfig:
    return DataConfig(**{"data_dir": str(folder), "img_size": 72, "loader": "torch", "workers": 0} | others)


def loaded(config: DataConfig, local: range = range(2), start: int = 0, stop: int = 6) -> list[Batch]:
    """Steps of 2 shards of 2 images, those of the shards `local`."""
    split = open_training(config, SEED)
    order = training_order(config, SEED, len(split.store))
    return list(split.loader.batches(training_requests(order, 2, 2, local, start, stop)))


def same(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a, b) for pair in zip(left, right, strict=True) for a, b in zip(*pair, strict=True)
    )


@pytest.mark.parametrize("title", AUGMENTED)
def test_each_augmentation_changes_pictures_and_nothing_else(title: str, folder: Path):
    plain, augmented = loaded(settings(folder)), loaded(settings(folder, **AUGMENTED[title]))
    assert any((a.images != b.images).any() for a, b in zip(plain, augmented, strict=True))
    if title != "repeated-aug":
        assert all(torch.equal(a.indices, b.indices) for a, b in zip(plain, augmented, strict=True))


@pytest.mark.parametrize("title", AUGMENTED)
def test_pictures_are_the_same_for_1_and_2_processes_and_from_the_middle_of_a_run(title: str, folder: Path):
    config = settings(folder, **AUGMENTED[title])
    whole = loaded(config)
    ranks = [loaded(config, range(rank, rank + 1)) for rank in range(2)]
    assert same([batch for pair in zip(*ranks, strict=True) for batch in pair], whole)
    assert same(loaded(config, start=4), whole[8:])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("others", [ALL, *({"auto_augment": name} for name in ("aa", "ra", "ta", "augmix"))], ids=str)
def test_pictures_are_the_same_for_0_1_and_2_workers(engine: str, others: dict, folder: Path):
    expected = loaded(settings(folder, loader=engine, **others))
    for workers in (1, 2):
        assert same(loaded(settings(folder, loader=engine, workers=workers, **others)), expected)


def test_pictures_are_the_same_for_any_number_of_threads_of_torch(folder: Path):
    config = settings(folder, img_size=300, train_crop="random-resized", color_jitter=(0.0, 0.9, 0.9))
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(loaded(config, stop=2))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert same(*found)


def test_engines_draw_the_same(tmp_path: Path, picture: Callable, encoded: Callable):
    """Of images that are not resized, whose pixels are the same in every engine."""
    for number in range(12):
        path = tmp_path / "train" / "a" / f"{number:02}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(number, 32, 32), subsampling="4:4:4"))
    expected = loaded(settings(tmp_path, img_size=32, **ALL))
    for engine in ENGINES:
        assert same(loaded(settings(tmp_path, img_size=32, loader=engine, workers=1, **ALL)), expected)
    pytest.importorskip("nvidia.dali")
    for workers in (0, 2):
        assert same(loaded(settings(tmp_path, img_size=32, loader="dali-cpu", workers=workers, **ALL)), expected)


def test_grey_images_can_be_painted_on(folder: Path):
    """torchvision's have one channel in memory, and cutout and erasing write into what they are given."""
    for cutout in ("square", "rectangle"):
        others = {"cutout": cutout, "cutout_prob": 1.0, "random_erasing": 1.0, "erasing_mode": "rand"}
        batches = loaded(settings(folder, grayscale=1.0, **others), stop=2)
        assert all((batch.images[..., 0] != batch.images[..., 2]).any() for batch in batches)


def test_switching_one_on_changes_no_draw_of_the_others(folder: Path):
    def erased(**others: object) -> torch.Tensor:
        batches = loaded(settings(folder, random_erasing=1.0, erasing_area=(0.2, 0.3), **others))
        return torch.cat([batch.images for batch in batches]) == torch.tensor([124, 116, 104], dtype=torch.uint8)

    both = erased() & erased(color_jitter=(0.9,))
    assert both.all(-1).flatten(1).double().mean(1).min() > 0.19


def test_a_batchwide_cutout_has_one_place_and_others_their_own(folder: Path):
    def covered(cutout: str) -> list[np.ndarray]:
        config = settings(folder, cutout=cutout, cutout_size=20, train_crop="pad")
        batch = next(open_training(config, SEED).loader.batches([Request(0, np.arange(12))]))
        mean = torch.tensor([124, 116, 104], dtype=torch.uint8)
        return [(image == mean).all(-1).numpy() for image in batch.images]

    first, *rest = covered("batch")
    assert all((other & first).sum() >= first.sum() for other in rest)
    first, *rest = covered("square")
    assert any((other & first).sum() < first.sum() for other in rest)


def test_a_substitute_is_augmented_as_in_its_own_place(folder: Path):
    config = settings(folder, on_bad_image="skip", color_jitter=(0.9,))
    loader = open_training(config, SEED).loader
    (folder / "train" / "b" / "04.JPEG").write_bytes(b"no image")
    batch = next(loader.batches([Request(3, np.arange(12))]))
    row = 5  # images are numbered by class and file
    assert batch.bad.tolist() == [row] and batch.indices[row] != row
    own = next(loader.batches([Request(3, batch.indices[[row]].numpy())]))
    assert torch.equal(own.images[0], batch.images[row])


def test_nothing_is_built_where_nothing_is_asked_for():
    assert build_chain(DataConfig(), 0) is None and build_chain(DataConfig(color_jitter=(0.0,)), 0) is None
    assert training_plan(DataConfig(), 0).augmentations is None


def test_images_come_several_times_in_a_row_drawn_anew(folder: Path):
    order = Order(7, 103, repeats=3)
    whole = list(training_requests(order, 5, 4, range(4), 0, 10))
    places = np.concatenate([request.indices for request in whole[:20]])
    assert np.array_equal(places, np.repeat(order.epoch(0), 3)[:100])
    assert np.array_equal(np.concatenate([request.copies for request in whole[:20]]), np.arange(100) % 3)
    rest = list(training_requests(order, 5, 4, range(4), 7, 10))
    assert all(np.array_equal(a.indices, b.indices) for a, b in zip(whole[28:], rest, strict=True))
    plan = training_plan(DataConfig(), 3)
    size = np.full(4, 300)
    boxes = plan.views(0, np.zeros(4, np.int64), size, size, np.arange(4)).boxes
    assert len(np.unique(boxes, axis=0)) == 4
    assert np.array_equal(boxes[0], plan.views(0, np.zeros(1, np.int64), size[:1], size[:1]).boxes[0])


def test_crops_grow_with_the_epoch(folder: Path):
    config = settings(folder, img_size=192, img_size_start=96, img_size_ramp=(1, 4))
    plan = training_plan(config, SEED)
    assert [plan.side(epoch) for epoch in range(6)] == [96, 96, 128, 160, 192, 192]
    for engine in ENGINES:
        batches = loaded(dataclasses.replace(config, loader=engine), start=0, stop=9)
        assert [batch.images.shape[1] for batch in batches] == 6 * [96] + 6 * [96] + 6 * [128]
    pytest.importorskip("nvidia.dali")
    batches = loaded(dataclasses.replace(config, loader="dali-cpu"), start=0, stop=9)
    assert [batch.images.shape[1] for batch in batches] == 12 * [96] + 6 * [128]


REFUSED = [
    ("--auto-augment ra --color-jitter 0.4", "--auto-augment takes the place of --color-jitter"),
    ("--three-augment --solarize 0.2", "--three-augment takes the place of --solarize"),
    ("--color-jitter 0.4 0.4", "give one number, or brightness contrast saturation"),
    ("--color-jitter 0.4 0.4 0.4 0.6", "hue by 0.6; use at most 0.5"),
    ("--color-jitter-prob 0.8", "--color-jitter-prob has no effect without --color-jitter"),
    ("--blur-sigma 1 2", "--blur-sigma has no effect without --gaussian-blur or --three-augment"),
    ("--gaussian-blur 0.5 --blur-sigma 2 1", "--blur-sigma 2 1 is empty"),
    ("--solarize-threshold 100", "no effect without --solarize"),
    ("--ra-magnitude 5 --auto-augment ta", "--ra-magnitude is for --auto-augment ra only"),
    ("--aa-policy svhn", "--aa-policy is for --auto-augment aa only"),
    ("--augmix-severity 5", "is for --auto-augment augmix only"),
    ("--aa-fill 128", "is for --auto-augment aa ra ta augmix only"),
    ("--cutout-size 16", "--cutout-size has no effect without --cutout"),
    ("--cutout rectangle --cutout-size 16", "--cutout-size has no effect on --cutout rectangle"),
    ("--cutout-prob 0.5", "--cutout-prob has no effect without --cutout"),
    ("--erasing-mode pixel", "--erasing-mode has no effect without --random-erasing"),
    ("--img-size-start 160", "give both or neither"),
    ("--img-size-start 320 --img-size-ramp 1 5", "--img-size-start 320 is larger than --img-size 224"),
    ("--img-size-start 160 --img-size-ramp 5 5", "the second epoch must come after the first"),
    ("--img-size 64 --img-size-start 32 --img-size-ramp 1 5", "--img-size-start has no effect on --train-crop pad"),
]


@pytest.mark.parametrize(("flags", "reason"), REFUSED)
def test_flags_at_odds_or_without_effect_are_refused(flags: str, reason: str):
    config, _ = read_config(flags.split())
    with pytest.raises(UsageError, match=reason):
        training_plan(config.data, 0)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("engine", ["synthetic", "dali-gpu"])
def test_engines_that_cannot_carry_one_out_say_so(name: str, engine: str, folder: Path):
    value = next(row[name] for row in AUGMENTED.values() if name in row)
    if name == "auto_augment":
        value = "ra"
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} .*--loader {engine}"):
        open_training(settings(folder, loader=engine, **{name: value}), SEED)


@pytest.mark.parametrize("flags", ["--repeated-aug 3", "--img-size-start 160 --img-size-ramp 1 5"])
def test_synthetic_images_are_not_repeated_and_do_not_grow(flags: str):
    config, _ = read_config([*flags.split(), "--loader", "synthetic"])
    with pytest.raises(UsageError, match="has no effect on --loader synthetic"):
        open_training(config.data, 0)


def test_flags_have_their_aliases():
    words = "--aa ra --ra-num-ops 3 --reprob 0.2 --remode pixel --recount 2 --aug-repeats 3 --pca-std 0.1"
    data = read_config(words.split())[0].data
    expected = DataConfig(
        auto_augment="ra",
        ra_ops=3,
        random_erasing=0.2,
        erasing_mode="pixel",
        erasing_count=2,
        repeated_aug=3,
        lighting=0.1,
    )
    assert data == expected and data != Config().data
