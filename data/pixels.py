"""Carries a plan out on the CPU with Pillow: encoded bytes and a view in, uint8 pixels out.

One treatment for every file, whatever its name says: JPEG, PNG, WEBP, GIF, BMP, TIFF and PPM are told by their first
bytes; of several frames the first is taken; greyscale is replicated, CMYK and YCCK are converted, palettes are looked
up, transparency is dropped without blending, the orientation that a camera noted (EXIF) is ignored. Refused are images
with more than 8 bits a channel, images of more than MAX_PIXELS and JPEGs without their end (see `data.header`), and
whatever Pillow cannot decode to the end. This is the verdict of every engine: what another decoder does not take as a
matter of course is decoded here.
"""

import io
import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from data.header import read_jpeg_header, refuse_bombs
from data.plan import Views
from utils.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def probe(encoded: bytes, name: str) -> Image.Image:
    """The image with its size read and checked but its pixels not yet decoded.

    DataError, naming the image by `name`, if it is none, is too large or is deeper than 8 bits a channel.
    """
    read_jpeg_header(encoded, name)
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        deep = _is_deep(image)
    except UnidentifiedImageError as error:
        found = f"{len(encoded)} bytes that begin with {encoded[:8]!r}"
        raise DataError(f"{name} is no image but {found}; expected {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow's plugins raise a dozen types on damaged bytes
        raise DataError(f"{name} cannot be read: {_reason(error)}; replace or remove the file") from error
    refuse_bombs(image.width, image.height, name)
    if deep:
        raise DataError(f"{name} has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits")
    return image


def decode(image: Image.Image, name: str) -> Image.Image:
    """The pixels of what `probe` opened, as RGB. DataError, naming the image by `name`, if they are damaged."""
    try:
        image.load()
        image.info.pop("transparency", None)  # convert() would warn of what is dropped on purpose
        return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as error:  # as in probe
        raise DataError(f"{name} cannot be decoded: {_reason(error)}; replace or remove the file") from error


def render(image: Image.Image, views: Views, row: int, side: int, interpolation: str) -> NDArray[np.uint8]:
    """What row `row` of `views` shows of an RGB image: (side, side, 3)."""
    left, top, width, height = views.boxes[row].tolist()
    # Cut first, then resize, as torchvision does: resize(box=...) would let pixels outside of the box bleed in.
    if (width, height) != image.size:
        image = image.crop((left, top, left + width, top + height))
    size = tuple(views.sizes[row].tolist())
    if size != image.size:
        image = image.resize(size, FILTERS[interpolation])
    x, y = views.corners[row].tolist()
    if (x, y) != (0, 0) or size != (side, side):
        image = image.crop((x, y, x + side, y + side))
    pixels = np.asarray(image)
    return pixels[:, ::-1] if views.flips[row] else pixels


def _is_deep(image: Image.Image) -> bool:
    """Whether an opened image holds more than 8 bits a channel, of which Pillow would drop some in silence."""
    layouts = " ".join(str(tile[3]) for tile in image.tile)  # such as RGB;16B: red, green, blue, 16 bits, big-endian
    whitest = max((tile[3][1] for tile in image.tile if tile[0].startswith("ppm")), default=0)
    deep = image.mode in ("I", "F") or image.mode.startswith("I;16") or re.search(r";16[BLN]", layouts) is not None
    return deep or whitest > 255


def _reason(error: Exception) -> str:
    """What Pillow says, or the kind of error where it says nothing, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
