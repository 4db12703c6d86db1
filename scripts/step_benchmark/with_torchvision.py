"""torchvision: the loop of its references/classification/train.py, which its package has not, with its networks.

Images come normalized, as floats, (n, 3, h, w), from its workers, and are copied to the device while the step waits;
loss, top-1 and top-5 are read in every step; SGD decays all parameters. Its script has fp16 alone and validates without
it; here bf16 is the same autocast without the scaler, and validation has it too. `torchvision-channels-last` is what
PyTorch's documents advise: network and images in that layout.
"""

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from data.channels import IMAGENET
from scripts.step_benchmark.contenders import CLASSES, MOMENTUM, RATE, SEED, WEIGHT_DECAY, Setup
from scripts.step_benchmark.counting import COMPUTE
from scripts.step_benchmark.pacing import Pace
from scripts.step_benchmark.peer_settings import set_arithmetic
from scripts.step_benchmark.resident import Pair, resident


def network(name: str) -> nn.Module:
    """With fresh weights."""
    return torchvision.models.get_model(name, weights=None, num_classes=CLASSES)


def loop(setup: Setup, pace: Pace, folder: Path) -> None:
    """Train, or evaluate, for as many turns as `pace` gives."""
    device = torch.device(setup.device)
    layout = torch.channels_last if setup.contender == "torchvision-channels-last" else torch.contiguous_format
    set_arithmetic(setup)
    torch.manual_seed(SEED)
    model = network(setup.network).to(device, memory_format=layout)
    pairs = resident(setup.batch_size, setup.img_size, setup.device)
    batches = pace.over(itertools.cycle([(_floats(images), labels) for images, labels in pairs]))
    autocast = torch.autocast(setup.device, COMPUTE[setup.precision], enabled=setup.precision in ("bf16", "fp16"))
    if setup.infer:
        evaluate(model, batches, autocast, pace, layout)
        return
    scaler = torch.amp.GradScaler(setup.device) if setup.precision == "fp16" else None
    train(model, scaler, autocast, batches, pace, layout)


def _floats(images: Tensor) -> Tensor:
    """What ToTensor and Normalize make in its workers, and pinned memory holds."""
    mean, std = (torch.tensor(IMAGENET[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    floats = ((images.permute(0, 3, 1, 2) / 255 - mean) / std).contiguous()
    return floats.pin_memory() if images.is_pinned() else floats


def train(
    model: nn.Module,
    scaler: torch.amp.GradScaler | None,
    autocast: AbstractContextManager[None],
    batches: Iterator[Pair],
    pace: Pace,
    layout: torch.memory_format,
) -> None:
    """Steps, as long as there are batches."""
    criterion = nn.CrossEntropyLoss(label_smoothing=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    device = next(model.parameters()).device
    model.train()
    for images, labels in batches:
        images, labels = images.to(device, memory_format=layout), labels.to(device)
        with autocast:
            logits = model(images)
            loss = criterion(logits, labels)
        optimizer.zero_grad()
        if scaler:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        else:
            loss.backward()
            optimizer.step()
        _read(logits, labels, loss, pace)


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterator[Pair],
    autocast: AbstractContextManager[None],
    pace: Pace,
    layout: torch.memory_format,
) -> None:
    """Batches of an evaluation, each with its loss and hits read."""
    criterion = nn.CrossEntropyLoss()
    device = next(model.parameters()).device
    model.eval()
    for images, labels in batches:
        images = images.to(device, non_blocking=True, memory_format=layout)
        labels = labels.to(device, non_blocking=True)
        with autocast:
            logits = model(images)
            loss = criterion(logits, labels)
        _read(logits, labels, loss, pace)


def _read(logits: Tensor, labels: Tensor, loss: Tensor, pace: Pace) -> list[float]:
    """Loss, and the hits among the largest one and five, percent: three times the host waits."""
    with torch.inference_mode():
        found = logits.topk(5, 1).indices.t()
        right = found == labels[None]
        shares = [right[:count].flatten().sum(dtype=torch.float32) * (100.0 / len(labels)) for count in (1, 5)]
    pace.losses.append(loss.item())
    return [share.item() for share in shares]
