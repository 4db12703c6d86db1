"""Loss and hits, summed on the device and read only when somebody wants to see them.

Sums are kept in tables with a row for each shard, or for each validation batch, that this rank leaves at zero where the
row is another rank's. Adding zeros is exact, so the totals do not depend on the number of processes.
"""

import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from utils.distributed import World
from utils.errors import DataError

TOP = (1, 5)
SUMS = ("loss", "hits", "images", "bad")  # of losses, of right top-1, of images, and of those replaced by others


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """How many of (n, k) logits have their label among the largest one and five: (2,) float64."""
    largest = logits.topk(min(TOP[-1], logits.shape[1]), dim=1).indices  # (n, 5)
    right = largest == labels[:, None]
    return torch.stack([right[:, :top].sum() for top in TOP]).double()


def everywhere(table: Tensor, world: World) -> Tensor:
    """The sum of all ranks' tables, as a new tensor."""
    total = table.clone()
    if world.size > 1:
        dist.all_reduce(total)
    return total


class TrainingSums:
    """Loss and top-1 of each shard since the last log line: (V, 4), the SUMS of each."""

    def __init__(self, count: int, own: range, device: torch.device):
        self.own = own
        self.table = torch.zeros(count, 4, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, shard: int, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Targets of mixed images count as the class with the larger share. A loss that is not finite is left out."""
        labels = targets.argmax(1) if targets.ndim == 2 else targets
        images = torch.full((), len(labels), dtype=torch.float64, device=loss.device)
        row = torch.stack([loss.double() * images, hits(logits, labels)[0], images])
        self.table[shard, :3] += torch.where(loss.isfinite(), row, 0.0)

    def add_bad(self, shard: int, images: int) -> None:
        """So many images of a shard were bad, and replaced by others."""
        if images:
            self.table[shard, 3] += images

    def take(self, world: World) -> dict[str, Tensor]:
        """All shards' sums since they were last taken, on the device; they start anew."""
        totals = everywhere(self.table, world).sum(0)
        self.table.zero_()
        return dict(zip(SUMS, totals, strict=True))

    def read(self, world: World) -> tuple[dict[str, float], int]:
        """Mean loss and top-1, and bad images, since they were last taken. Waits for the device."""
        found = {name: total.item() for name, total in self.take(world).items()}
        return means(found), int(found["bad"])

    def state(self, world: World) -> Tensor:
        """All ranks' rows, for a checkpoint."""
        return everywhere(self.table, world).cpu()

    def restore(self, table: Tensor) -> None:
        for shard in self.own:
            self.table[shard] = table[shard].to(self.table.device)


def means(found: Mapping[str, float]) -> dict[str, float]:
    """Mean loss and top-1 (percent) of sums that were taken."""
    loss, right, images = found["loss"], found["hits"], found["images"]
    return {"train/loss": loss / images, "train/top1": 100 * right / images} if images else {}


@dataclass(frozen=True)
class Score:
    """What a validation found: top-1 and top-5 in percent, the mean loss, how many images were counted or left out."""

    top1: float
    top5: float
    loss: float
    images: int
    left_out: int  # bad ones
    classes: Tensor  # (k, 2) whole numbers: images of each class, and how many were right

    def values(self) -> dict[str, float]:
        return {"top1": self.top1, "top5": self.top5, "loss": self.loss}

    def __str__(self) -> str:
        left_out = f", {self.left_out} bad ones left out" if self.left_out else ""
        counted = f"({self.images} images{left_out})"
        return f"top-1 {self.top1:.3f} %  top-5 {self.top5:.3f} %  loss {self.loss:.4f}  {counted}"


class ValidationSums:
    """Loss and hits of each validation batch, and hits of each class, of `count` images or fewer."""

    def __init__(self, count: int, batches: int, classes: int, device: torch.device):
        self.count = count
        self.table = torch.zeros(batches, 4, dtype=torch.float64, device=device)
        self.classes = torch.zeros(classes, 2, dtype=torch.int64, device=device)

    def add(self, batch: int, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        """`losses` (n,) and `logits` (n, k) of the images of one batch."""
        images = torch.full((1,), len(labels), dtype=torch.float64, device=logits.device)
        self.table[batch] = torch.cat([losses.double().sum()[None], hits(logits, labels), images])
        ones = torch.ones_like(labels)
        self.classes[:, 0].index_add_(0, labels, ones)
        self.classes[:, 1].index_add_(0, labels, (logits.argmax(1) == labels).to(ones.dtype))

    def score(self, world: World) -> Score:
        loss, top1, top5, images = everywhere(self.table, world).sum(0).tolist()
        classes = everywhere(self.classes, world).cpu()
        if not images:
            raise DataError(f"none of the {self.count} validation images can be decoded")
        left_out = self.count - int(images)
        return Score(100 * top1 / images, 100 * top5 / images, loss / images, int(images), left_out, classes)


def peak_memory(device: torch.device) -> float:
    """Most memory that this process has held, GiB: allocated on a GPU, or resident in the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts KiB


def write_class_accuracy(folder: Path, names: Sequence[str], classes: Tensor) -> None:
    """class_accuracy.tsv: images and hits of each class, a (k, 2) table, with the top-1 in percent."""
    lines = ["class\timages\tcorrect\ttop1"]
    for name, (images, correct) in zip(names, classes.tolist(), strict=False):
        lines.append(f"{name}\t{images}\t{correct}\t{100 * correct / images if images else float('nan'):.2f}")
    (folder / "class_accuracy.tsv").write_text("\n".join(lines) + "\n")
