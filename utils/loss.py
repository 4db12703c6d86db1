"""The loss: cross-entropy in float32 with torch's label smoothing.

torch smooths with eps over all K classes; PytorchInsight and ModelZoo.pytorch over the K - 1 others: their eps is
torch's times (K - 1) / K.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from utils.config import LossConfig

Criterion = Callable[[Tensor, Tensor], Tensor]


def build_loss(config: LossConfig) -> Criterion:
    """A function of logits (n, k) and targets, (n,) class numbers or (n, k) shares of classes, to the mean loss."""

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(wide(logits), targets, label_smoothing=config.label_smoothing)

    return loss


def wide(logits: Tensor) -> Tensor:
    """Logits in at least float32: bf16 has 8 bits of mantissa, too few for a log-sum-exp over 1000 classes."""
    return logits if logits.dtype == torch.float64 else logits.float()


def example_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The plain cross-entropy of each image, (n,): what validation reports, whatever training was asked for."""
    return cross_entropy(wide(logits), labels, reduction="none")
