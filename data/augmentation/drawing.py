"""From numbers in [0, 1), as a plan draws them, to what an augmentation needs."""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def between(number: float, low: float, high: float) -> float:
    """Uniform between two bounds."""
    return low + (high - low) * float(number)


def choice(number: float, count: int) -> int:
    """One of 0 ... count - 1, each as likely as another."""
    return int(number * count)


def log_between(number: float, low: float, high: float) -> float:
    """Uniform on the scale of the logarithm, as ratios of width and height are."""
    return math.exp(between(number, math.log(low), math.log(high)))


def normals(numbers: Floats) -> Floats:
    """Half as many numbers of the standard normal distribution (Box and Muller 1958)."""
    first, second = numbers.reshape(2, -1)
    return np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * np.pi * second)
