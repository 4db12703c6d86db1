"""The loss: cross-entropy in float32 with torch's label smoothing, or binary cross-entropy of each class for itself.

torch smooths with eps over all K classes; PytorchInsight and ModelZoo.pytorch over the K - 1 others: their eps is
torch's times (K - 1) / K. Binary cross-entropy: Wightman et al. 2021, arXiv 2110.00476, whose targets of mixed images
are 1 for each class with more than a threshold's share.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from utils.config import LossConfig
from utils.errors import UsageError

Criterion = Callable[[Tensor, Tensor], Tensor]


def build_loss(config: LossConfig) -> Criterion:
    """A function of logits (n, k) and targets, (n,) class numbers or (n, k) shares of classes, to the mean loss."""
    _refuse_unused(config)
    if config.bce:
        return lambda logits, targets: _binary(wide(logits), targets, config)

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(wide(logits), targets, label_smoothing=config.label_smoothing)

    return loss


def _refuse_unused(config: LossConfig) -> None:
    if config.bce_sum and not config.bce:
        raise UsageError("--bce-sum has no effect without --bce; add it")
    if config.bce_threshold is None:
        return
    if not config.bce:
        raise UsageError(f"--bce-threshold {config.bce_threshold:g} has no effect without --bce; add it")
    if not config.mixes:
        raise UsageError(
            f"--bce-threshold {config.bce_threshold:g} is for mixed targets, and nothing is mixed; "
            "add --mixup or --cutmix, or leave it out"
        )


def _binary(logits: Tensor, targets: Tensor, config: LossConfig) -> Tensor:
    """Smoothed first, then compared with the threshold, as timm does."""
    classes = logits.shape[1]
    wanted = targets if targets.ndim == 2 else torch.zeros_like(logits).scatter_(1, targets[:, None], 1.0)
    wanted = (1 - config.label_smoothing) * wanted.to(logits.dtype) + config.label_smoothing / classes
    if config.bce_threshold is not None:
        wanted = (wanted > config.bce_threshold).to(logits.dtype)
    loss = binary_cross_entropy_with_logits(logits, wanted)
    return loss * classes if config.bce_sum else loss


def wide(logits: Tensor) -> Tensor:
    """Logits in at least float32: bf16 has 8 bits of mantissa, too few for a log-sum-exp over 1000 classes."""
    return logits if logits.dtype == torch.float64 else logits.float()


def example_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The plain cross-entropy of each image, (n,): what validation reports, whatever training was asked for."""
    return cross_entropy(wide(logits), labels, reduction="none")
