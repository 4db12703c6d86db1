"""Batches: uint8 as every engine makes them, and normalized floats as networks take them."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import torch

from data.order import Request
from data.transfer import Transfer

Channels = tuple[float, float, float]  # red, green, blue


class Batch(NamedTuple):
    """Images as a loader makes them: uint8 pixels, labels, and the numbers of the images in the store.

    `bad` are the numbers of images that could not be shown: replaced by others in training, left out in validation.
    """

    images: torch.Tensor  # (n, side, side, 3) uint8
    labels: torch.Tensor  # (n,) int64
    indices: torch.Tensor  # (n,) int64
    bad: torch.Tensor  # (k,) int64


class Loader(Protocol):
    """What every engine offers."""

    def batches(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """A batch for each request, in order. `requests` is asked for a few at a time, so it may be very long."""

    def describe(self) -> str:
        """One line for the log."""


class Normalizer:
    """Brings uint8 images to the device and normalizes them there, (x / 255 - mean) / std for each channel."""

    def __init__(
        self,
        mean: Channels,
        std: Channels,
        device: torch.device,
        dtype: torch.dtype,
        layout: torch.memory_format = torch.channels_last,
    ) -> None:
        self.dtype, self.layout, self.transfer = dtype, layout, Transfer(device)
        precise = torch.promote_types(dtype, torch.float32)  # 8 bits less a mean do not fit bfloat16
        self.mean = 255 * torch.tensor(mean, dtype=torch.float64).to(device, precise).view(1, 3, 1, 1)
        self.std = 255 * torch.tensor(std, dtype=torch.float64).to(device, precise).view(1, 3, 1, 1)
        self.arithmetic = normalized

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(n, h, w, 3) uint8 -> (n, 3, h, w) of `dtype` on `device`, in `layout`: channels_last moves no memory."""
        pixels = self.transfer(images).permute(0, 3, 1, 2)
        return self.arithmetic(pixels, self.mean, self.std, self.dtype, self.layout)

    def compile(self, how: dict[str, object]) -> None:
        """From now on one kernel does it all, made by torch.compile, which is told `how`."""
        self.arithmetic = torch.compile(normalized, **how)


def normalized(
    pixels: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, dtype: torch.dtype, layout: torch.memory_format
) -> torch.Tensor:
    """(pixels - mean) / std, computed in the type of `mean`, as `dtype` in `layout`."""
    return pixels.to(mean.dtype, memory_format=layout).sub_(mean).div_(std).to(dtype)
