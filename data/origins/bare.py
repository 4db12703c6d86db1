"""Images that a data set holds as bare pixels: each is made into a PNG, which loses nothing, when it is read."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PNG_HEAD = 100  # bytes that a PNG of pixels that cannot be compressed is longer than these, at most, if it is small


class BarePixels:
    """Pictures in memory as a medium: `pixels` (n, height, width) grey or (n, height, width, 3), uint8."""

    def __init__(self, title: str, pixels: NDArray[np.uint8]) -> None:
        self._title, self._pixels = title, pixels

    def read(self, row: int) -> bytes:
        """The PNG of one picture."""
        return encode_png(self._pixels[row])

    def name(self, row: int) -> str:
        """How an error names an image."""
        return f"image {row} of {self._title}"

    def sizes(self) -> NDArray[np.int64]:
        """At most so many bytes."""
        return np.full(len(self._pixels), self._pixels[:1].nbytes + PNG_HEAD, dtype=np.int64)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG of a picture: (height, width) grey or (height, width, 3)."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
