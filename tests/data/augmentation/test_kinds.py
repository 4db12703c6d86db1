"""Each augmentation against torchvision's kernels, its paper's formula, or the ancestors' golden numbers."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from data.augmentation.augmix import SPACE as AUGMIX
from data.augmentation.augmix import AugMix
from data.augmentation.auto_augment import SPACE as AUTO
from data.augmentation.auto_augment import WRITTEN, AutoAugment, pairs
from data.augmentation.blur import GaussianBlur, blurred
from data.augmentation.cutout import RectangleCutout, SquareCutout, cover_square
from data.augmentation.drawing import normals
from data.augmentation.erasing import PER_REGION, RandomErasing
from data.augmentation.grayscale import Grayscale
from data.augmentation.jitter import ORDERS, ColorJitter
from data.augmentation.lighting import AXES, SPREADS, Lighting
from data.augmentation.operations import OPERATIONS, Space, operate
from data.augmentation.rand_augment import NAMES as RAND_NAMES
from data.augmentation.rand_augment import SPACE as RAND
from data.augmentation.rand_augment import RandAugment
from data.augmentation.rotation import Rotation
from data.augmentation.solarize import Solarize
from data.augmentation.three_augment import ThreeAugment
from data.augmentation.trivial_augment import SPACE as TRIVIAL
from data.augmentation.trivial_augment import TrivialAugment
from utils.randomness import uniforms

SIDE, MANY = 48, 4000
MEAN = (124, 116, 104)

# Our name of an operation: torchvision's.
THEIRS = {
    "identity": "Identity",
    "shear-x": "ShearX",
    "shear-y": "ShearY",
    "translate-x": "TranslateX",
    "translate-y": "TranslateY",
    "rotate": "Rotate",
    "brightness": "Brightness",
    "color": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "auto-contrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
}


@pytest.fixture
def image() -> Tensor:
    """Coloured waves with some noise: (3, 48, 48) uint8, a view of pixels as a batch has them."""
    y, x = np.mgrid[:SIDE, :SIDE]
    waves = [127 + 90 * np.sin(x / (3 + channel) + y / (7 - channel)) for channel in range(3)]
    noise = np.random.default_rng(0).integers(-30, 30, (SIDE, SIDE, 3))
    pixels = np.clip(np.stack(waves, axis=2) + noise, 0, 255).astype(np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def close(ours: Tensor, theirs: Tensor) -> bool:
    """Equal but for one value in a thousand that was rounded to the other side."""
    difference = (ours.int() - theirs.int()).abs()
    return difference.max() <= 1 and (difference > 0).double().mean() < 1e-3


def numbers(draws: int, count: int = MANY) -> np.ndarray:
    return uniforms(3, 99, 0, np.arange(count), draws)


def test_jitter_is_torchvisions_adjustments_in_the_drawn_order(image: Tensor):
    order = ORDERS.index((2, 0, 3, 1))
    drawn = np.array([0.0, (order + 0.5) / 24, 0.25, 0.5, 1.0, 0.75])
    found = ColorJitter((0.4, 0.8, 0.2, 0.1), 1.0)(image, drawn)
    expected = F.adjust_brightness(F.adjust_saturation(image, 1.2), 0.8)
    assert torch.equal(found, F.adjust_contrast(F.adjust_hue(expected, 0.05), 1.0))


def test_jitter_draws_factors_from_torchvisions_ranges():
    jitter, theirs = ColorJitter((0.4, 1.5, 0.2, 0.5), 1.0), v2.ColorJitter(0.4, 1.5, 0.2, 0.5)
    for kind, bounds in enumerate((theirs.brightness, theirs.contrast, theirs.saturation, theirs.hue)):
        assert [jitter._factor(kind, number) for number in (0.0, 1.0)] == pytest.approx(bounds)


def test_jitter_leaves_out_what_has_no_strength_and_images_by_its_probability(image: Tensor):
    drawn = np.array([0.5, 0.0, 0.9, 0.9, 0.9, 0.9])
    assert torch.equal(ColorJitter((0.4, 0.0, 0.0, 0.0), 1.0)(image, drawn), F.adjust_brightness(image, 1.32))
    assert ColorJitter((0.4, 0.4, 0.4, 0.1), 0.5)(image, drawn) is image


def test_simple_kinds_are_torchvisions_or_nothing(image: Tensor):
    for drawn in (0.29, 0.31):
        for kind, expected in (
            (Grayscale(0.3), v2.Grayscale(3)(image)),
            (Solarize(0.3, 110), F.solarize(image, 110)),
            (GaussianBlur(0.3, (0.1, 2.0)), F.gaussian_blur(image, [5, 5], [1.05, 1.05])),
        ):
            found = kind(image, np.array([drawn, 0.5]))
            assert close(found, expected) if drawn < 0.3 else found is image


def test_blur_is_a_normalized_gaussian_of_a_tenth_of_the_side():
    point = torch.zeros(3, 224, 224, dtype=torch.uint8)
    point[:, 112, 112] = 255
    spread = blurred(torch.full_like(point, 0) + point, 1.5)[0].double()
    assert (blurred(255 - 0 * point, 2.0) == 255).all()
    x = torch.arange(-11, 12).double()
    weights = torch.exp(-(x**2) / (2 * 1.5**2)) / torch.exp(-(x**2) / (2 * 1.5**2)).sum()
    assert (spread[101:124, 101:124] - 255 * weights[:, None] * weights).abs().max() <= 0.5001
    assert spread.sum() == spread[101:124, 101:124].sum()


def test_rotation_is_torchvisions_over_the_whole_range(image: Tensor):
    for number, angle in ((0.0, -15.0), (0.5, 0.0), (0.75, 7.5)):
        assert torch.equal(Rotation(15.0)(image, np.array([number])), F.rotate(image, angle))


def test_normal_numbers_are_normal():
    found = normals(numbers(6).T.reshape(2, -1))
    assert abs(found.mean()) < 0.03 and abs(found.std() - 1) < 0.03
    assert abs((np.abs(found) < 1).mean() - 0.6827) < 0.02  # 12,000 draws: five standard errors are 0.021


def test_lighting_adds_the_rounded_shift_of_the_formula_to_every_pixel(image: Tensor):
    drawn = numbers(6, 1)[0]
    alphas = 0.5 * normals(drawn)
    shift = [round(255 * sum(AXES[c, k] * alphas[k] * SPREADS[k] for k in range(3))) for c in range(3)]
    expected = (image.int() + torch.tensor(shift).view(3, 1, 1)).clamp(0, 255)
    found = Lighting(0.5)(image, drawn)
    assert torch.equal(found.int(), expected) and not torch.equal(found, image)
    assert np.abs(AXES.T @ AXES - np.eye(3)).max() < 1e-3  # orthonormal, as printed to four digits


@pytest.mark.parametrize("which", range(3))
def test_three_augment_does_one_of_three(which: int, image: Tensor):
    expected = (v2.Grayscale(3)(image), F.solarize(image, 128), F.gaussian_blur(image, [5, 5], [2.0, 2.0]))[which]
    assert close(ThreeAugment(128, (0.1, 2.0))(image, np.array([(which + 0.5) / 3, 1.0])), expected)


@pytest.mark.parametrize(
    ("ours", "theirs", "bins"),
    [
        (AUTO, v2.AutoAugment._AUGMENTATION_SPACE, 10),
        (RAND, v2.RandAugment._AUGMENTATION_SPACE, 31),
        (TRIVIAL, v2.TrivialAugmentWide._AUGMENTATION_SPACE, 31),
        (AUGMIX, v2.AugMix._PARTIAL_AUGMENTATION_SPACE, 10),
    ],
    ids=["aa", "ra", "ta", "augmix"],
)
def test_operations_and_strengths_are_torchvisions(ours: Space, theirs: dict, bins: int):
    assert sorted(THEIRS[name] for name in ours) == sorted(theirs)
    for name, found in ours.items():
        strengths, signed = theirs[THEIRS[name]]
        expected = strengths(bins, 224, 224)
        assert found.signed == signed
        scale = 255 if name == "solarize" else 1
        for level in range(bins if expected is not None else 0):
            strength = found.strength(level / (bins - 1), 224)
            assert strength == pytest.approx(scale * float(expected[level]), rel=1e-5, abs=1e-6)
            # Its float32 falls short of some whole numbers of pixels: 15.999999 would be 15.
            assert not name.startswith("translate") or int(strength) == int(float(expected[level]) + 1e-5)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("fill", [None, [128.0] * 3])
def test_pixels_of_operations_are_torchvisions(name: str, fill: list[float] | None, image: Tensor):
    strength = {"posterize": 5.0, "solarize": 90.0, "rotate": -20.0}.get(name, 7.3 if "translate" in name else 0.27)
    theirs = v2.RandAugment(interpolation=v2.InterpolationMode.BILINEAR, fill=fill)
    magnitude = strength / 255 if name == "solarize" else strength
    expected = theirs._apply_image_or_video_transform(
        image, THEIRS[name], magnitude, v2.InterpolationMode.BILINEAR, theirs._fill
    )
    assert torch.equal(OPERATIONS[name](image, strength, fill), expected)


@pytest.mark.parametrize("policy", ["imagenet", "cifar10", "svhn"])
def test_auto_augments_policies_are_torchvisions(policy: str):
    theirs = v2.AutoAugment(v2.AutoAugmentPolicy(policy))._policies
    ours = [
        tuple((THEIRS[part.name], part.probability, part.level) for part in pair) for pair in pairs(WRITTEN[policy])
    ]
    assert ours == [tuple((name, p, level or 0) for name, p, level in pair) for pair in theirs]


def test_auto_augment_does_a_pair_by_its_probabilities_and_signs(image: Tensor):
    chosen = pairs("rotate 4 9 equalize 6 0\nsolarize 6 5 shear-x 10 3")
    auto = AutoAugment(chosen, None)
    both = F.equalize(F.rotate(image, -30.0, interpolation=v2.InterpolationMode.BILINEAR))
    assert torch.equal(auto(image, np.array([0.49, 0.39, 0.49, 0.59, 0.9])), both)
    assert torch.equal(auto(image, np.array([0.49, 0.41, 0.49, 0.59, 0.9])), F.equalize(image))
    assert auto(image, np.array([0.49, 0.41, 0.49, 0.61, 0.9])) is image
    sheared = operate(F.solarize(image, 255 * 4 / 9), "shear-x", AUTO["shear-x"], 3 / 9, 0.9, None)
    assert torch.equal(auto(image, np.array([0.51, 0.59, 0.0, 0.99, 0.9])), sheared)


def test_rand_augment_does_its_operations_one_after_the_other_at_one_level(image: Tensor):
    drawn = np.array([(RAND_NAMES.index(name) + 0.5) / 14 for name in ("brightness", "posterize")])
    found = RandAugment(2, 9.0, None)(image, np.column_stack([drawn, [0.4, 0.4]]).ravel())
    assert torch.equal(found, F.posterize(F.adjust_brightness(image, 0.73), 7))
    assert len(RAND_NAMES) == 14


def test_trivial_augment_draws_its_level(image: Tensor):
    which = (list(TRIVIAL).index("brightness") + 0.5) / len(TRIVIAL)
    found = TrivialAugment(None)(image, np.array([which, 20.5 / 31, 0.6]))
    assert torch.equal(found, F.adjust_brightness(image, 1 + 0.99 * 20 / 30))


def test_augmix_is_the_weighted_mean_of_image_and_chains(image: Tensor):
    drawn = numbers(AugMix.draws, 1)[0]
    chains = drawn[1:].reshape(3, -1)
    weights = -np.log(1 - chains[:, 0])
    weights = (1 - drawn[0]) * weights / weights.sum()
    expected = drawn[0] * image.double()
    for weight, chain in zip(weights, chains, strict=True):
        one = image
        for which, level, sign in chain[2:].reshape(3, 3)[: int(3 * chain[1]) + 1]:
            name = list(AUGMIX)[int(which * 9)]
            one = operate(one, name, AUGMIX[name], int(3 * level) / 9, sign, None)
        expected += weight * one.double()
    assert (AugMix(3, None)(image, drawn).double() - expected).abs().max() <= 0.5001


def test_augmix_weights_are_dirichlets():
    chains = numbers(3)
    weights = -np.log1p(-chains)
    weights /= weights.sum(axis=1, keepdims=True)
    assert np.abs(weights.mean(axis=0) - 1 / 3).max() < 0.02
    assert np.abs(weights.var(axis=0) - 1 / 18).max() < 0.005  # (1/3)(2/3) / 4


@pytest.mark.parametrize(("size", "row", "column"), [(6, 3, 4), (5, 0, 7), (16, 0, 0), (1, 3, 3)])
def test_a_square_is_cut_off_at_the_edges_as_in_the_papers_code(size: int, row: int, column: int):
    found = cover_square(torch.ones(2, 3, 8, 8), row, column, size, 0.0)
    y, x = np.mgrid[:8, :8]
    half = size // 2
    covered = (y >= row - half) & (y < row + half) & (x >= column - half) & (x < column + half)
    assert np.array_equal(found[1, 2].numpy() == 0, covered)


def test_square_cutout_covers_centres_all_over_with_the_mean_colour():
    seen = np.zeros((8, 8))
    for drawn in numbers(3, 600):
        blank = SquareCutout(2, 1.0, MEAN, False)(torch.zeros(3, 8, 8, dtype=torch.uint8), drawn)
        assert {tuple(pixel) for pixel in blank.reshape(3, -1).T.tolist()} == {(0, 0, 0), MEAN}
        seen += blank[0].numpy() > 0
    assert seen.min() > 0
    left = torch.zeros(3, 8, 8, dtype=torch.uint8)
    assert not SquareCutout(2, 0.5, MEAN, False)(left, np.array([0.5, 0.1, 0.1])).any()
    half = SquareCutout(None, 1.0, MEAN, False)(left, np.array([0.5, 0.5, 0.5]))
    assert int((half[0] > 0).sum()) == 4 * 4


def test_rectangular_cutout_lies_inside_and_has_the_documented_area_and_ratio():
    areas, ratios, greys = [], [], []
    for drawn in numbers(6, 800):
        blank = RectangleCutout(1.0)(torch.full((3, 100, 100), -1, dtype=torch.int16), drawn)
        rows, columns = (torch.nonzero((blank[0] >= 0).any(axis)).ravel() for axis in (1, 0))
        inside = blank[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (inside == inside[0, 0, 0]).all()
        areas.append(len(rows) * len(columns) / 1e4)
        ratios.append(len(rows) / len(columns))
        greys.append(int(inside[0, 0, 0]))
    assert 0.015 < min(areas) < 0.03 and 0.38 < max(areas) <= 0.4
    assert 0.38 < min(ratios) < 0.45 and 2.4 < max(ratios) < 2.7
    assert min(greys) < 5 and max(greys) > 250


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_erasing_has_torchvisions_geometry_and_its_mode(mode: str):
    erase = RandomErasing(1.0, mode, 1, (0.02, 0.33), (0.3, 3.3), MEAN)
    areas, ratios = [], []
    for drawn in numbers(erase.draws, 300):
        blank = erase(torch.full((3, 60, 60), -1, dtype=torch.int16), drawn)
        rows, columns = (torch.nonzero((blank[0] >= 0).any(axis)).ravel() for axis in (1, 0))
        inside = blank[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        colours = {tuple(pixel) for pixel in inside.reshape(3, -1).T.tolist()}
        assert colours == {MEAN} if mode == "const" else len(colours) == 1 if mode == "rand" else len(colours) > 9
        areas.append(len(rows) * len(columns) / 3600)
        ratios.append(np.log(len(rows) / len(columns)))
    assert 0.01 < min(areas) < 0.04 and 0.3 < max(areas) < 0.36
    assert abs(np.mean(ratios)) < 0.2 and max(ratios) < np.log(3.3) + 0.2


def test_erasing_shares_the_area_among_its_regions_and_keeps_its_probability():
    erase = RandomErasing(0.25, "const", 3, (0.3, 0.3), (1.0, 1.0), MEAN)
    drawn = numbers(erase.draws)
    assert drawn.shape[1] == 1 + 3 * PER_REGION
    shares = [(erase(torch.zeros(3, 60, 60, dtype=torch.uint8), row)[0] > 0).double().mean() for row in drawn[:400]]
    assert max(shares) == pytest.approx(0.3, abs=0.01)  # three squares of 19 pixels that do not overlap
    assert np.mean([share > 0 for share in shares]) == pytest.approx((drawn[:400, 0] < 0.25).mean())
