"""What becomes of an image on its way into an LMDB: checked by decoding it, shrunk and encoded anew if asked."""

import io
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, NamedTuple

import PIL
from PIL import Image, features

from data.pixels import decode, probe

QUALITY = 90  # of a shrunk JPEG where none is asked for


@dataclass(frozen=True)
class Treatment:
    """Sides in pixels, JPEG quality 1 to 100, and what is done about images that cannot be decoded to their end.

    An image is shrunk, never enlarged, until its shorter side is at most `shorter_side` and its longer side at most
    `max_side`, by Pillow's antialiased bicubic filter, and encoded as a baseline JPEG, RGB, 4:2:0. An image that need
    not shrink keeps its bytes, unless `quality` alone is given, which encodes every image anew.
    """

    shorter_side: int | None = None
    max_side: int | None = None
    quality: int | None = None
    on_bad_image: Literal["error", "skip", "keep"] = "error"

    @property
    def encodes(self) -> bool:
        """Whether any image may come out with other bytes than its own."""
        return (self.shorter_side, self.max_side, self.quality) != (None, None, None)

    def settings(self) -> dict[str, object]:
        """What decides about the bytes that come out; the same settings make the same bytes of an image."""
        jpeg = {"jpeg": features.version("jpg")} if self.encodes else {}
        pillow = {"pillow": PIL.__version__, "zlib": features.version("zlib")}  # they make PNGs of bare pixels
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | pillow | jpeg


class Treated(NamedTuple):
    """An image's bytes as they are written, and its size in pixels."""

    encoded: bytes
    width: int
    height: int


def treat(encoded: bytes, name: str, treatment: Treatment) -> Treated:
    """Check and, where it is asked, shrink an image. DataError, naming it by `name`, if it is bad."""
    with closing(probe(encoded, name)) as opened:
        image = decode(opened, name)
        width, height = image.size
        size = target(width, height, treatment)
        whole = treatment.shorter_side is None and treatment.max_side is None and treatment.quality is not None
        if size == (width, height) and not whole:
            return Treated(encoded, width, height)
        smaller = image if size == (width, height) else image.resize(size, Image.Resampling.BICUBIC)
        return Treated(_encode(smaller, treatment.quality or QUALITY), *size)


def target(width: int, height: int, treatment: Treatment) -> tuple[int, int]:
    """The size to which an image shrinks: the nearest to its aspect, one pixel at least."""
    bounds = ((treatment.shorter_side, min(width, height)), (treatment.max_side, max(width, height)))
    over = [(wanted, side) for wanted, side in bounds if wanted is not None and side > wanted]
    if not over:
        return width, height
    wanted, side = min(over, key=lambda bound: bound[0] / bound[1])
    return max(1, round(width * wanted / side)), max(1, round(height * wanted / side))


def _encode(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.info = {}  # Pillow would copy a comment
    image.save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()
