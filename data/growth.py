"""Progressive resizing: training crops grow from epoch to epoch, in the manner of FFCV (arXiv 2306.12517).

A function of the epoch: small in the first epochs, then a straight line in steps of 32 pixels, then full size. The
batch stays as large as it is, so the smaller the images the faster the epoch.
"""

from dataclasses import dataclass

import numpy as np

from utils.config.data import DataConfig
from utils.errors import UsageError

MULTIPLE = 32  # pixels: what networks halve five times without a rest


@dataclass(frozen=True)
class Growth:
    """From `smallest` pixels up to epoch `first` to `largest` pixels from epoch `last` on, both counted from 0."""

    smallest: int
    largest: int
    first: int
    last: int

    def side(self, epoch: int) -> int:
        """Side of the crops of one epoch, pixels."""
        if epoch <= self.first or epoch >= self.last:
            return self.smallest if epoch <= self.first else self.largest
        straight = np.interp(epoch, [self.first, self.last], [self.smallest, self.largest])
        return int(min(max(MULTIPLE * np.round(straight / MULTIPLE), self.smallest), self.largest))


def build_growth(config: DataConfig, pads: bool) -> Growth | None:
    """What the settings ask for, None if the size stays. UsageError for half of it, or sizes or epochs that fall."""
    smallest, ramp = config.img_size_start, config.img_size_ramp
    if smallest is None and ramp is None:
        return None
    if smallest is None or ramp is None:
        raise UsageError("--img-size-start and --img-size-ramp are two halves of one thing; give both or neither")
    if pads:
        raise UsageError("--img-size-start has no effect on --train-crop pad; use --train-crop random-resized")
    if smallest > config.img_size:
        raise UsageError(f"--img-size-start {smallest} is larger than --img-size {config.img_size}; crops only grow")
    if ramp[0] >= ramp[1]:
        raise UsageError(f"--img-size-ramp {ramp[0]} {ramp[1]}: the second epoch must come after the first")
    return Growth(smallest, config.img_size, *ramp)
