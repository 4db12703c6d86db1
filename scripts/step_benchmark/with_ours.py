"""Our own loops, as users run them: train_dist's `train_epoch` and `evaluate` over an assembled run.

What is replaced is the loader, by batches that lie ready in memory, and the loss is remembered on the device.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import Tensor, nn

from data.batches import Batch
from data.loaders import VALIDATION_SHARE
from data.order import Request
from scripts.assembly import assemble_run, settings_from
from scripts.step_benchmark.contenders import CLASSES, RATE, SEED, STEPS_IN_ALL, WEIGHT_DECAY, Setup
from scripts.step_benchmark.pacing import Pace
from scripts.step_benchmark.resident import ResidentLoader, resident
from train_dist import evaluate, train_epoch
from utils import distributed
from utils.distillation import Criterion
from utils.ending import Ending


def arguments(setup: Setup, folder: Path) -> list[str]:
    """The command line of such a run. Synthetic images of a validation are a tenth."""
    images = STEPS_IN_ALL * setup.batch_size * (VALIDATION_SHARE if setup.infer else 1)
    common = {
        "model": setup.network,
        "norm": setup.norm,
        "precision": setup.precision,
        "loader": "synthetic",
        "synthetic-images": images,
        "synthetic-classes": CLASSES,
        "img-size": setup.img_size,
        "val-crop": setup.img_size,
        "batch-size": setup.batch_size,
        "device": setup.device,
        "threads": setup.threads,
        "seed": SEED,
        "lr": RATE,
        "sched": "constant",
        "warmup-epochs": 0,
        "weight-decay": WEIGHT_DECAY,
        "output-dir": folder,
    }
    return [*(word for name, value in common.items() for word in (f"--{name}", str(value))), *setup.flags]


def loop(setup: Setup, pace: Pace, folder: Path) -> None:
    """Train, or evaluate, for as many turns as `pace` gives."""
    config, _ = settings_from(arguments(setup, folder))
    loader = ResidentLoader(resident(setup.batch_size, setup.img_size, setup.device))
    ending = Ending()
    ending.world = distributed.start(config.training)
    run = assemble_run(config, ending)
    if setup.infer:
        network = run.network
        del run  # and the memory of its optimizer
        network.val = network.val._replace(loader=_Paced(loader, pace))
        evaluate(network, _Watched(network.model, pace))
        return
    run.criterion = _remembered(run.criterion, pace)
    run.train = run.train._replace(loader=loader)
    run.open()
    train_epoch(run, pace.over(run.batches()))


def _remembered(criterion: Criterion, pace: Pace) -> Criterion:
    def remembering(logits: Tensor, targets: Tensor, images: Tensor) -> Tensor:
        loss = criterion(logits, targets, images)
        pace.losses.append(loss.detach())
        return loss

    return remembering


class _Paced:
    """The resident batches as a validation's, whose turns `pace` gives."""

    def __init__(self, loader: ResidentLoader, pace: Pace) -> None:
        self.loader, self.pace = loader, pace

    def describe(self) -> str:
        return self.loader.describe()

    def batches(self, requests: Iterable[Request]) -> Iterator[Batch]:
        return self.pace.over(self.loader.batches(requests))


class _Watched(nn.Module):
    """A network of which a number is remembered, to compare: the mean over images of logsumexp of the logits."""

    def __init__(self, network: nn.Module, pace: Pace) -> None:
        super().__init__()
        self.network, self.pace = network, pace

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        self.pace.losses.append(logits.float().logsumexp(1).mean())
        return logits
