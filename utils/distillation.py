"""Knowledge distillation: a network learns what a trained one, its teacher, makes of the same images.

Hinton, Vinyals and Dean 2015, arXiv 1503.02531: the mean of the plain loss and of the teacher's part, weighted by
1 - alpha and alpha. The teacher's part compares both networks' probabilities at a temperature T, and is multiplied by
T^2, as its gradients would else be smaller by as much. It is the divergence of the two: their cross-entropy without the
teacher's own entropy, which has no gradient, so that it is zero where they agree.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from utils.config import LossConfig
from utils.errors import UsageError

Criterion = Callable[[Tensor, Tensor, Tensor], Tensor]  # of logits, targets and images to the mean loss
PARTS = ("teacher_weights", "teacher_pretrained", "distill_alpha", "distill_temperature")


class Teacher:
    """A trained network that is only asked. It is no part of a checkpoint: `fingerprint` says which it was."""

    def __init__(self, network: nn.Module, autocast: Callable[[], AbstractContextManager[None]], fingerprint: str):
        self.network = network.requires_grad_(False).eval()
        self.autocast, self.fingerprint = autocast, fingerprint

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """What it makes of normalized images, (n, k)."""
        with self.autocast():
            return self.network(images)


def untaught(loss: Callable[[Tensor, Tensor], Tensor]) -> Criterion:
    """The criterion of a run without a teacher: whatever the images are."""
    return lambda logits, targets, images: loss(logits, targets)


def taught(loss: Callable[[Tensor, Tensor], Tensor], teacher: Teacher, config: LossConfig) -> Criterion:
    """The criterion of a run with a teacher, which sees the images as the network did."""
    alpha, temperature = config.distill_alpha, config.distill_temperature
    if alpha == 1:
        return lambda logits, targets, images: divergence(logits, teacher.logits(images), temperature)

    def criterion(logits: Tensor, targets: Tensor, images: Tensor) -> Tensor:
        lesson = divergence(logits, teacher.logits(images), temperature)
        return (1 - alpha) * loss(logits, targets) + alpha * lesson

    return criterion


def divergence(logits: Tensor, teachers: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || network) at temperature T, mean over images, in at least float32."""
    ours, theirs = (_log_probabilities(z, temperature) for z in (logits, teachers))
    return temperature**2 * kl_div(ours, theirs, reduction="batchmean", log_target=True)


def _log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return (wide / temperature).log_softmax(dim=1)


def refuse_unused(config: LossConfig) -> None:
    """UsageError for a flag that has no effect beside the others."""
    plain = LossConfig()
    if config.teacher is None:
        for flag in PARTS:
            if getattr(config, flag) != getattr(plain, flag):
                told = f"--{flag.replace('_', '-')} {getattr(config, flag)}"
                raise UsageError(f"{told} has no effect without --teacher; add it, or leave this out")
    elif config.distill_alpha == 1:
        for flag in ("label_smoothing", "bce"):
            if getattr(config, flag):
                told = f"--{flag.replace('_', '-')}"
                raise UsageError(f"{told} has no effect with --distill-alpha 1, which learns from the teacher alone")


def fingerprint(settings: Mapping[str, object], weights: Mapping[str, Tensor]) -> str:
    """A sum over what makes a network what it is: settings that are not the default, names and bits of weights."""
    found = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, value in weights.items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()
