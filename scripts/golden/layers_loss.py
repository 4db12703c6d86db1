"""Golden losses and mixings of two ancestors: files that hold functions instead of layers."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from scripts.golden.layer import Meta, Outputs
from utils.config import LossConfig
from utils.loss import build_loss
from utils.mixing import blend, box

Arrays = Mapping[str, NDArray[np.generic]]


def _smoothed(argument: str, without_entropy: bool) -> Callable[[Meta, Arrays], Outputs]:
    """Smoothing over the K - 1 other classes is torch's with K / (K - 1) of it. PytorchInsight's is a divergence, which
    lacks the entropy of the target."""

    def table(meta: Meta, arrays: Arrays) -> Outputs:
        theirs = meta["ctor"][argument]
        logits = torch.tensor(arrays["in.x"], dtype=torch.float64, requires_grad=True)
        others = logits.shape[1] - 1
        criterion = build_loss(LossConfig(label_smoothing=theirs * (others + 1) / others))
        loss = criterion(logits, torch.tensor(arrays["in.target"]))
        loss.backward()
        entropy = -(1 - theirs) * math.log(1 - theirs) - theirs * math.log(theirs / others)
        return {"out.y": loss - entropy * without_entropy, "grad.x": logits.grad}

    return table


def _mixup(meta: Meta, arrays: Arrays) -> Outputs:
    """ModelZoo.pytorch's partners are the batch backwards; ours are a permutation, of which that is one."""
    images, labels = torch.tensor(arrays["in.x"], dtype=torch.float64), torch.tensor(arrays["in.y"])
    partners = torch.tensor(arrays["in.perm"]) if "in.perm" in arrays else torch.arange(len(labels)).flip(0)
    mixed = blend(images, images[partners], meta["lam"])
    return {"out.x": mixed, "out.y_a": labels, "out.y_b": labels[partners]}


def _boxes(meta: Meta, arrays: Arrays) -> Outputs:
    name = "table.lam_cx_cy_bbx1_bby1_bbx2_bby2"
    given = arrays[name][:, :3]
    found = box(tuple(meta["size"][2:]), given[:, 0], given[:, 1:].astype(np.int64))
    return {name: torch.tensor(np.concatenate([given, found], axis=1))}


LOSS_TABLES: dict[str, Callable[[Meta, Arrays], Outputs]] = {
    "torchtoolbox.nn.LabelSmoothingLoss": _smoothed("smoothing", without_entropy=False),
    "imagenet_mobile.SoftCrossEntropyLoss": _smoothed("label_smoothing", without_entropy=True),
    "torchtoolbox.tools.mixup_data": _mixup,
    "imagenet_mobile.mixup_data": _mixup,
    "imagenet_mobile.rand_bbox": _boxes,
}

# Whose target or mixed images were computed in float32: class -> pattern of arrays.
ROUNDED_TARGETS = {
    "torchtoolbox.nn.LabelSmoothingLoss": "*",
    "torchtoolbox.tools.mixup_data": "*",
    "imagenet_mobile.mixup_data": "*",
}
