"""Ratios of speeds, paired by round: the median, and an interval that asks nothing of how times scatter.

Contenders of a round ran one after another, so what slows the machine for minutes slows them alike and leaves their
ratio. The median of n independent ratios lies between the k-th smallest and the k-th largest with a probability of
1 - 2 sum_{i<k} C(n, i) / 2^n, whatever their distribution (Thompson 1936): k is the largest that keeps COVERAGE.
"""

from collections.abc import Sequence
from math import comb
from statistics import median
from typing import NamedTuple

COVERAGE = 0.9  # reached from five rounds on: 0.94 between the smallest and the largest


class Ratio(NamedTuple):
    """The median, and between what it lies with the probability `coverage`."""

    value: float
    low: float
    high: float
    coverage: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ratio(seconds: Sequence[float], others: Sequence[float]) -> Ratio:
    """How many times as fast as another a contender is, from the seconds of both in each round."""
    values = sorted(other / own for own, other in zip(seconds, others, strict=True))
    ends = left_out(len(values))
    return Ratio(median(values), values[ends], values[-1 - ends], coverage(len(values), ends))


def left_out(count: int) -> int:
    """How many of `count` values lie beyond each end of their median's interval."""
    return max(k for k in range((count + 1) // 2) if k == 0 or coverage(count, k) >= COVERAGE)


def coverage(count: int, ends: int) -> float:
    """The probability that the median lies between `count` values without `ends` smallest and largest."""
    return 1 - 2 * sum(comb(count, i) for i in range(ends + 1)) / 2**count


def cost(seconds: Sequence[float], plain: Sequence[float]) -> Ratio:
    """What a contender takes more than the plain step, percent."""
    slower = ratio(plain, seconds)
    return Ratio(*(100 * (number - 1) for number in slower[:3]), slower.coverage)
