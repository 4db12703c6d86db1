"""The nearest neighbours of the PWSConv ancestor, who kept each sample among its own neighbours, as a miss."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from utils.neighbours import directions, most_similar, same_class


def neighbour_table(topk: int, arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The share of the `topk` neighbours that are of the class of their sample, of features as they are and of length
    one. Ours leaves a sample out of its own neighbours (seeds.md 8, item 6)."""
    features, labels = torch.tensor(arrays["in.feat"]).double(), torch.tensor(arrays["in.target"]).flatten()
    oneself = torch.arange(len(labels))[:, None]
    found = {}
    for name, bank in (("raw", features), ("l2norm", directions(features))):
        near = most_similar(bank, bank, topk)
        right = same_class(near, labels, labels) & (near.indices != oneself)
        found[f"out.acc_{name}"] = right.double().mean()
    return found
