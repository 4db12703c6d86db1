"""timm: the loops of its train.py and validate.py, from the parts that its package has.

Its network, its optimizer (`sgd` has Nesterov momentum; no decay of what has one dimension), its task with its loss,
its scaler for fp16, its prefetcher, which normalizes on the device; the loss is read in every step. Its users add
--channels-last, and --pin-mem with a GPU. bf16 is --amp --amp-dtype bfloat16, which has no scaler.
"""

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import timm
import torch
from timm.data.loader import PrefetchLoader
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask
from timm.utils import AverageMeter, NativeScaler, accuracy
from torch import Tensor, nn

from scripts.step_benchmark.contenders import CLASSES, MOMENTUM, RATE, SEED, WEIGHT_DECAY, Setup
from scripts.step_benchmark.counting import COMPUTE
from scripts.step_benchmark.pacing import Pace
from scripts.step_benchmark.peer_settings import set_arithmetic
from scripts.step_benchmark.resident import Pair, placed, resident


def network(name: str) -> nn.Module:
    """With fresh weights."""
    return timm.create_model(name, num_classes=CLASSES)


def loop(setup: Setup, pace: Pace, folder: Path) -> None:
    """Train, or validate, for as many turns as `pace` gives."""
    device = torch.device(setup.device)
    set_arithmetic(setup)
    torch.manual_seed(SEED)
    model = network(setup.network).to(device, memory_format=torch.channels_last)
    pairs = resident(setup.batch_size, setup.img_size, setup.device)
    batches = pace.over(iter(PrefetchLoader(_Collated(pairs, setup.device), device=device)))
    autocast = torch.autocast(setup.device, COMPUTE[setup.precision], enabled=setup.precision in ("bf16", "fp16"))
    compiled = setup.contender == "timm-compile"
    if setup.infer:
        validate(torch.compile(model) if compiled else model, batches, autocast, pace)
        return
    task = ClassificationTask(model, criterion_kwargs={"smoothing": 0.0}, device=device, verbose=False)
    if compiled:
        task.compile()
    optimizer = create_optimizer_v2(model, opt="sgd", lr=RATE, weight_decay=WEIGHT_DECAY, momentum=MOMENTUM)
    scaler = NativeScaler(device=setup.device) if setup.precision == "fp16" else None
    train(task, optimizer, scaler, autocast, batches, pace)


class _Collated:
    """What its workers hand over: (n, 3, h, w) uint8, without end."""

    def __init__(self, pairs: list[Pair], device: str) -> None:
        planes = [images.permute(0, 3, 1, 2).contiguous() for images, _ in pairs]
        self.pairs = [(placed(images, device), labels) for images, (_, labels) in zip(planes, pairs, strict=True)]

    def __iter__(self) -> Iterator[Pair]:
        return itertools.cycle(self.pairs)


def train(
    task: ClassificationTask,
    optimizer: torch.optim.Optimizer,
    scaler: NativeScaler | None,
    autocast: AbstractContextManager[None],
    batches: Iterator[Pair],
    pace: Pace,
) -> None:
    """Steps, as long as there are batches."""
    losses = AverageMeter()
    task.train()
    optimizer.zero_grad()
    for images, labels in batches:
        images = images.contiguous(memory_format=torch.channels_last)
        with autocast:
            loss = task(images, labels)["loss"]
        if scaler:
            scaler(loss, optimizer)
        else:
            loss.backward()
            optimizer.step()
        optimizer.zero_grad()
        losses.update(loss.item(), len(images))
        pace.losses.append(losses.val)


@torch.inference_mode()
def validate(model: nn.Module, batches: Iterator[Pair], autocast: AbstractContextManager[None], pace: Pace) -> None:
    """Batches of a validation, each with its loss and hits read."""
    losses, top1, top5 = AverageMeter(), AverageMeter(), AverageMeter()
    criterion = nn.CrossEntropyLoss()
    model.eval()
    for images, labels in batches:
        images = images.contiguous(memory_format=torch.channels_last)
        with autocast:
            logits = model(images)
            loss = criterion(logits, labels)
        hits1, hits5 = accuracy(logits.detach(), labels, topk=(1, 5))
        losses.update(loss.item(), len(images))
        _note(top1, hits1, images)
        _note(top5, hits5, images)
        pace.losses.append(losses.val)


def _note(meter: AverageMeter, hits: Tensor, images: Tensor) -> None:
    meter.update(hits.item(), len(images))
