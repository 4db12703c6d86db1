"""The mean of paired differences with its 95 % interval, by Student's t.

Runs of the same seed have the same order, the same plan and, where the network is the same, the same first weights: a
difference of two of them has less noise in it than either. The interval is of the mean over seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

SHARE = 0.95
BISECTIONS = 60  # of an angle: to a float's last digits


@dataclass(frozen=True)
class Difference:
    """The mean of `pairs` differences; `half` is half the interval's width, None where one pair tells of no spread."""

    mean: float
    half: float | None
    pairs: int

    @property
    def low(self) -> float | None:
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        return None if self.half is None else self.mean + self.half


def paired(differences: Sequence[float]) -> Difference:
    """The mean of at least one difference and the interval in which it lies at SHARE."""
    count = len(differences)
    if count == 1:
        return Difference(differences[0], None, 1)
    half = t_quantile(SHARE, count - 1) * stdev(differences) / math.sqrt(count)
    return Difference(fmean(differences), half, count)


def t_quantile(share: float, freedom: int) -> float:
    """The t that |t| stays below with probability `share`, at `freedom` degrees of freedom."""
    low, high = 0.0, math.pi / 2
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _share_within(middle, freedom) < share else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _share_within(angle: float, freedom: int) -> float:
    """P(|t| < sqrt(freedom) tan(angle)): Abramowitz and Stegun 26.7.3 and 26.7.4, finite sums."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
