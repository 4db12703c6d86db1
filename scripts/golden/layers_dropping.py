"""Golden DropBlock and drop-connect of ModelZoo.pytorch, whose draws are given: the rest is ours."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.layers.dropping import drop_blocks, gamma, kept, survivors
from scripts.golden.comparing import Check, elementwise
from scripts.golden.layer import Meta, Outputs


def drop_block_outputs(meta: Meta, arrays: Mapping[str, np.ndarray]) -> Outputs:
    """Their one mask for all samples, which ours draws for each, from their seeds."""
    size = meta["ctor"]["block_size"]
    x = torch.tensor(arrays["in.x"], dtype=torch.float64, requires_grad=True)
    centres = torch.tensor(arrays["in.bernoulli_seed_mask"], dtype=torch.float64)
    y = drop_blocks(x, centres, size)
    y.backward(torch.tensor(arrays["gradout.y"], dtype=torch.float64))
    return {"out.mask": kept(centres, size), "out.y": y, "grad.x": x.grad}


def drop_connect_outputs(meta: Meta, arrays: Mapping[str, np.ndarray]) -> Outputs:
    """In float32, which decides which uniform number still lets its sample live, and is theirs to the last bit."""
    keep = 1 - meta["ctor"]["ratio"]
    y = torch.tensor(arrays["in.x"]) / keep * survivors(torch.tensor(arrays["in.uniform"]), keep)
    return {"out.y": y}


@dataclass(frozen=True)
class WrongGamma:
    """The table of their rates, whose denominator has h * size + 1 for h - size + 1 (seeds.md 8, 37): ours is the
    paper's, of which seeds.md has two numbers."""

    item: str = "layers/mz__DropBlock2d_gamma"
    reason: str = "the ancestor's denominator has h * size + 1 for h - size + 1"

    def checks(self) -> list[Check]:
        found = [gamma(0.1, 7, side, side) for side in (14, 7)]
        return [elementwise("gamma", Tensor(found).double(), np.array([6.25e-3, 1.0e-1]), rounded=True)]
