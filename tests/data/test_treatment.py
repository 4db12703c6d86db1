"""Images on their way into an LMDB: shrunk, encoded anew, or left as they are."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from data.treatment import Treatment, target, treat
from utils.errors import DataError

SIZES = [  # width, height, shorter side, longest side, size expected
    (500, 375, 256, None, (341, 256)),
    (375, 500, 256, None, (256, 341)),
    (200, 300, 256, None, (200, 300)),
    (256, 900, 256, None, (256, 900)),
    (1000, 400, None, 500, (500, 200)),
    (1000, 400, 256, 500, (500, 200)),
    (1000, 900, 256, 500, (284, 256)),
    (3000, 1, None, 500, (500, 1)),
    (500, 500, 500, 500, (500, 500)),
]


@pytest.mark.parametrize(("width", "height", "shorter", "longest", "expected"), SIZES)
def test_images_shrink_to_the_side_that_binds_and_never_grow(width, height, shorter, longest, expected):
    assert target(width, height, Treatment(shorter, longest)) == expected


def test_an_image_that_need_not_shrink_keeps_its_bytes(encoded: Callable, picture: Callable):
    for file in (encoded(picture(0, 60, 40)), encoded(picture(0, 60, 40), "PNG")):
        for treatment in (Treatment(), Treatment(40), Treatment(40, 60, 50)):
            assert treat(file, "x", treatment) == (file, 60, 40)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_shrunk_image_is_pillows_bicubic_as_a_jpeg_of_the_quality(kind: str, encoded: Callable, picture: Callable):
    file = encoded(picture(1, 90, 60), kind)
    treated = treat(file, "x", Treatment(shorter_side=30, quality=80))
    shown = Image.open(io.BytesIO(treated.encoded))
    assert (treated.width, treated.height) == shown.size == (45, 30) and shown.format == "JPEG"
    resized = Image.open(io.BytesIO(file)).resize((45, 30), Image.Resampling.BICUBIC)
    expected = encoded(resized, quality=80, subsampling=2)
    assert treated.encoded == expected
    assert shown.layer[0][1:3] == (2, 2)  # 4:2:0: luminance is sampled twice as often in both directions


def test_quality_alone_encodes_every_image_anew(encoded: Callable, picture: Callable):
    file = encoded(picture(1, 90, 60), quality=95)
    treated = treat(file, "x", Treatment(quality=30))
    assert len(treated.encoded) < len(file) and (treated.width, treated.height) == (90, 60)
    assert treated.encoded == encoded(Image.open(io.BytesIO(file)), quality=30, subsampling=2)


def test_nothing_but_pixels_goes_into_a_file_that_is_encoded_anew(encoded: Callable, picture: Callable):
    image = picture(2, 90, 60)
    noted = encoded(image, comment=b"a camera's note", icc_profile=b"profile", quality=95, subsampling=0)
    bare = encoded(image, quality=95, subsampling=0)
    assert treat(noted, "x", Treatment(30)) == treat(bare, "x", Treatment(30))


def test_grey_images_and_palettes_are_encoded_as_colours(encoded: Callable, picture: Callable):
    for mode in ("L", "P", "CMYK"):
        file = encoded(picture(3, 90, 60, mode), "PNG" if mode == "P" else "JPEG")
        shown = Image.open(io.BytesIO(treat(file, "x", Treatment(30)).encoded))
        assert shown.mode == "RGB" and np.asarray(shown).std() > 10


def test_a_bad_image_is_named(encoded: Callable, picture: Callable):
    with pytest.raises(DataError, match="some name"):
        treat(encoded(picture(0, 60, 40))[:-80], "some name", Treatment())
