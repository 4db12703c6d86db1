"""Comparing a result of ours with a golden one: an error, a tolerance, a verdict."""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

RELATIVE, ABSOLUTE = 1e-9, 1e-10  # of vectors computed and stored in float64 (golden/README.md)
ROUNDED = 1e-6  # of the maximum, of vectors that were rounded to float32 to save space


class NotOursYet(Exception):
    """A golden item that nothing of ours corresponds to; the message is the reason."""


@dataclass(frozen=True)
class Check:
    """One comparison: the largest error, in the unit of the tolerance. `note` is told even if all is well."""

    what: str
    error: float
    tolerance: float
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance  # false for nan

    @property
    def badness(self) -> float:
        """For sorting: the error over the tolerance, infinite where it is not a number."""
        if math.isnan(self.error):
            return math.inf
        return self.error / self.tolerance if self.tolerance else (math.inf if self.error else 0.0)


def absent(what: str) -> Check:
    """A number that the ancestor's run did not keep."""
    return Check(what, 0.0, 0.0, note=f"{what} not kept")


def exact(what: str, found: int, expected: int) -> Check:
    """Counts, which are right or wrong."""
    return Check(f"{what} {found}, expected {expected}" if found != expected else what, abs(found - expected), 0)


def elementwise(what: str, found: Tensor, expected: np.ndarray, rounded: bool = False) -> Check:
    """Every element: within ABSOLUTE + RELATIVE |expected|, or if `rounded` within ROUNDED max |expected|."""
    ours = found.detach().cpu().double().numpy()
    if ours.size != expected.size:
        return Check(f"{what} of shape {ours.shape}, expected {expected.shape}", math.inf, RELATIVE)
    if not expected.size:
        return Check(what, 0.0, RELATIVE)
    difference = np.abs(ours.reshape(expected.shape) - expected)
    if rounded:
        return Check(what, float(difference.max() / max(np.abs(expected).max(), ABSOLUTE)), ROUNDED)
    return Check(what, float((difference / (ABSOLUTE / RELATIVE + np.abs(expected))).max()), RELATIVE)
