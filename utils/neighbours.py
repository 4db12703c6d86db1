"""Nearest neighbours: how well features tell classes apart, without training a classifier on them.

Each image is told by the images most similar to it, similarity being the cosine of the angle between features. Each of
these votes for its class with weight exp(similarity / temperature), as Wu et al., arXiv 1805.01978, section 3.4, do.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 0.07  # of arXiv 1805.01978
CHUNK = 256  # features compared with all others at once: with the 1.28 million of ImageNet 1.3 GB of similarities


class Neighbours(NamedTuple):
    """The most similar of a bank of features for each query, the most similar first."""

    similarities: Tensor  # (n, k)
    indices: Tensor  # (n, k) into the bank


def most_similar(queries: Tensor, bank: Tensor, count: int, *, leave_one_out: bool = False) -> Neighbours:
    """For each query (n, c) the `count` features of the bank (m, c) with the largest inner product.

    With `leave_one_out`, queries are the bank itself and none is its own neighbour.
    """
    found = []
    for first in range(0, len(queries), CHUNK):
        similarities = queries[first : first + CHUNK] @ bank.T  # (chunk, m)
        if leave_one_out:
            rows = torch.arange(len(similarities), device=similarities.device)
            similarities[rows, first + rows] = -torch.inf
        found.append(similarities.topk(count, dim=1))
    return Neighbours(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def directions(features: Tensor) -> Tensor:
    """Features (n, c) of length one, whose inner products are cosines."""
    return F.normalize(features, dim=1)


def votes(neighbours: Neighbours, labels: Tensor, classes: int, temperature: float = TEMPERATURE) -> Tensor:
    """What the neighbours, with the bank's labels (m,), give each class: (n, classes)."""
    largest = neighbours.similarities[:, :1]  # taken off, so that no exponential is too large
    weights = torch.exp((neighbours.similarities - largest) / temperature)
    return weights.new_zeros(len(weights), classes).scatter_add_(1, labels[neighbours.indices], weights)


def same_class(neighbours: Neighbours, bank_labels: Tensor, labels: Tensor) -> Tensor:
    """Which neighbours are of the class of their query, whose labels are (n,): (n, k)."""
    return bank_labels[neighbours.indices] == labels[:, None]
