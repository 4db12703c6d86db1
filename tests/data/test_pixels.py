"""Pixels, against torchvision on Pillow images, and one verdict for every odd file."""

import io
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize
from torchvision.transforms import functional as transform

from data.header import MAX_PIXELS
from data.pixels import decode, probe, render
from data.plan import Views, training_plan, validation_plan
from utils.config.data import DataConfig
from utils.errors import DataError

MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
SIZES = [(500, 375), (375, 500), (224, 224), (60, 90), (231, 229), (1, 2000), (3000, 2), (1, 1)]


def views_of(plan: object, image: Image.Image, index: int) -> Views:
    return plan.views(2, np.array([index]), np.array([image.width]), np.array([image.height]))


@pytest.mark.parametrize("interpolation", MODES)
def test_random_resized_crop_gives_torchvisions_pixels(interpolation: str, picture: Callable[..., Image.Image]):
    plan = training_plan(DataConfig(interpolation=interpolation, img_size=96), seed=5)
    for index, size in enumerate(SIZES):
        image = picture(index, *size)
        views = views_of(plan, image, index)
        left, top, width, height = views.boxes[0].tolist()
        expected = transform.resized_crop(image, top, left, height, width, [96, 96], MODES[interpolation])
        expected = transform.hflip(expected) if views.flips[0] else expected
        assert np.array_equal(render(image, views, 0, 96, interpolation), np.asarray(expected))


@pytest.mark.parametrize("interpolation", MODES)
def test_validation_gives_torchvisions_pixels(interpolation: str, picture: Callable[..., Image.Image]):
    plan = validation_plan(DataConfig(interpolation=interpolation, img_size=96))
    expected = Compose([Resize(plan.resize, MODES[interpolation]), CenterCrop(plan.crop)])
    for index, size in enumerate([*SIZES[:5], (1, 1), (30, 400)]):
        image = picture(index, *size)
        ours = render(image, views_of(plan, image, index), 0, 96, interpolation)
        assert np.array_equal(ours, np.asarray(expected(image)))


def test_validation_gives_torchvisions_pixels_on_photographs(photographs: Path):
    plan = validation_plan(DataConfig())
    expected = Compose([Resize(256), CenterCrop(224)])
    for path in sorted(photographs.glob("*/*"))[::25]:
        image = decode(probe(path.read_bytes(), str(path)), str(path))
        ours = render(image, views_of(plan, image, 0), 0, 224, "bilinear")
        assert np.array_equal(ours, np.asarray(expected(Image.open(path).convert("RGB"))))


def test_pad_crop_pads_with_zeros_then_crops_then_flips(picture: Callable[..., Image.Image]):
    image = picture(0, 32, 32)
    plan = training_plan(DataConfig(img_size=32, pad=4), seed=5)
    padded = np.pad(np.asarray(image), ((4, 4), (4, 4), (0, 0)))
    views = plan.views(0, np.arange(40), np.full(40, 32), np.full(40, 32))
    for row in range(40):
        x, y = views.corners[row] + 4
        expected = padded[y : y + 32, x : x + 32]
        expected = expected[:, ::-1] if views.flips[row] else expected
        assert np.array_equal(render(image, views, row, 32, "bilinear"), expected)
    assert 5 < views.flips.sum() < 35


@pytest.mark.parametrize("size", [(1, 2000), (3000, 2), (1, 1), (65500, 1)])
@pytest.mark.parametrize("img_size", [32, 96])
def test_images_of_extreme_shape_train_and_validate(size: tuple[int, int], img_size: int):
    config = DataConfig(img_size=img_size)
    image = Image.new("RGB", size, (10, 200, 30))
    for plan in (training_plan(config, 0), validation_plan(config)):
        pixels = render(image, views_of(plan, image, 0), 0, img_size, "bilinear")
        assert pixels.shape == (img_size, img_size, 3)
        assert (pixels == (10, 200, 30)).all(axis=2).any()


def seen(data: bytes) -> Image.Image:
    return decode(probe(data, "train/a/x.JPEG"), "train/a/x.JPEG")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_format_is_told_by_the_first_bytes(kind: str, picture, encoded):
    image = picture(0, 50, 40)
    pixels = np.asarray(seen(encoded(image, kind)), dtype=int)
    assert pixels.shape == (40, 50, 3)
    # Lossless but for JPEG, WEBP and the 256 colours of GIF.
    assert np.abs(pixels - np.asarray(image)).mean() < (6 if kind in ("JPEG", "WEBP", "GIF") else 1e-9)


def test_greyscale_is_replicated(picture, encoded):
    image = picture(0, 50, 40, "L")
    assert np.array_equal(np.asarray(seen(encoded(image, "PNG"))), np.asarray(image)[:, :, None].repeat(3, axis=2))


def test_cmyk_is_converted(picture, encoded):
    image = picture(0, 50, 40)
    pixels = np.asarray(seen(encoded(image.convert("CMYK"), quality=95)), dtype=int)
    assert np.abs(pixels - np.asarray(image)).mean() < 3


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_dropped_without_blending_or_warning(mode: str, picture, encoded):
    image = picture(0, 50, 40).convert(mode)
    expected = np.asarray(image.convert("RGB"))
    if mode == "P":
        data = encoded(image, "PNG", transparency=bytes(range(256)))
    else:
        image.putalpha(0)
        data = encoded(image, "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(np.asarray(seen(data)), expected)


def test_orientation_of_the_camera_is_ignored(picture, encoded):
    image = picture(0, 50, 40)
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, turned = encoded(image), encoded(image, exif=exif)
    assert plain != turned
    assert np.array_equal(np.asarray(seen(plain)), np.asarray(seen(turned)))


def test_progressive_corrupt_exif_and_trailing_junk_change_nothing(picture, encoded):
    plain = encoded(picture(0, 50, 40))
    junk = b"\xff\xe1" + struct.pack(">H", 30) + b"Exif\0\0" + b"\xee" * 22  # an EXIF segment that makes no sense
    for data in (plain[:2] + junk + plain[2:], plain + b"junk" * 100):
        assert np.array_equal(np.asarray(seen(data)), np.asarray(seen(plain)))
    progressive = np.asarray(seen(encoded(picture(0, 50, 40), progressive=True)))
    assert np.array_equal(progressive, np.asarray(seen(plain)))


@pytest.mark.parametrize("color", [0, 2, 6])
def test_more_than_8_bits_a_channel_are_refused(color: int, deep_png: Callable[[int], bytes]):
    with pytest.raises(DataError, match=r"train/a/x\.JPEG has more than 8 bits a channel"):
        seen(deep_png(color))


def test_deep_ppm_is_refused_and_a_shallow_one_scaled():
    with pytest.raises(DataError, match="more than 8 bits a channel"):
        seen(b"P6 4 4 1023\n" + bytes(96))
    assert seen(b"P6 4 4 100\n" + bytes([100]) * 48).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_tiff_is_refused(dtype: type, encoded):
    with pytest.raises(DataError, match="more than 8 bits a channel"):
        seen(encoded(Image.fromarray(np.zeros((4, 4), dtype)), "TIFF"))


BROKEN = {
    "empty": b"",
    "text": b"<html>404 not found</html>",
    "random": np.random.default_rng(0).bytes(5000),
    "start of a JPEG only": b"\xff\xd8\xff",
    "start of a PNG only": b"\x89PNG\r\n\x1a\n",
    "start of a GIF only": b"GIF89a",
    "start of a TIFF only": b"II*\0",
    "start of a WEBP only": b"RIFF\x20\0\0\0WEBPVP8 ",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_image_is_refused_by_name_in_one_line(data: bytes):
    with pytest.raises(DataError, match=r"^train/a/x\.JPEG (is empty|is no image|cannot be)[^\n]*$"):
        seen(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.05])
def test_truncated_images_are_refused_by_name(kind: str, share: float, picture, encoded):
    data = encoded(picture(0, 300, 200), kind)
    with pytest.raises(DataError, match=r"^train/a/x\.JPEG [^\n]*$"):
        seen(data[: int(share * len(data))])


def test_huge_images_are_refused_from_their_header(encoded, claiming):
    with pytest.raises(DataError, match=str(MAX_PIXELS)):
        probe(claiming(encoded(Image.new("L", (64, 64))), 65500, 65500), "x")


def test_probing_decodes_no_pixels(picture, encoded):
    image = probe(encoded(picture(0, 50, 40)), "x")
    assert image.size == (50, 40)
    assert isinstance(image.fp, io.BytesIO)  # still open: nothing was decoded
