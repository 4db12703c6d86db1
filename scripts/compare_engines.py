"""Shows the same images by every engine, and tells how far apart their pixels are.

    python -m scripts.compare_engines --data-dir DIR
    python -m scripts.compare_engines --data-dir DIR --engines native torch --checkpoint RUN/best.pth --output worst.png

DIR is a folder or an LMDB with train/ and val/. Training images are cropped as in the first epoch, validation images as
in every epoch; bad images are skipped, and have to be the same for all. Windows come from one plan, so that they are
identical is seen from the sizes of the images as the engines know them. Speeds include the start of the engines for
each 1024 images. The exit code is 1 if a pair of engines differs by more than 0.3 of 255 in the mean, or in more than
its pixels. With a checkpoint, its settings are those of the images.
"""

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as checked
from tyro.conf import arg

from data.batches import Batch, Loader, Normalizer
from data.header import read_jpeg_header
from data.loaders import ENGINES, Split, open_training, open_validation
from data.order import Request, training_order
from data.pixels import probe
from data.plan import Plan, training_plan, validation_plan
from data.stores import Store
from models import build_model
from scripts.drawing import empty_figure
from utils.checkpoint import load_checkpoint
from utils.config import Config
from utils.config.data import DataConfig
from utils.config.parsing import config_from_settings
from utils.config.strict import STRICT
from utils.errors import DataError, EnvironmentFault, UsageError
from utils.registry import choose
from utils.script import script
from utils.state import give_back

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIMIT = 0.3  # of 255, mean difference: Pillow rounds between its two passes, which alone may change each fourth pixel
CHUNK = 1024  # images that are in memory at once, for each engine
PANEL = (3.2, 3.7)  # inches, of each picture in --output
LISTED = 5  # images named before it says only how many there are
SEED = 0
SPLITS = {"train": open_training, "val": lambda config, seed: open_validation(config, seed)}
Count = Annotated[int, Field(ge=1)]


@checked(frozen=True, config=STRICT)
class CompareConfig:
    """Show the same images by every engine, and tell how far apart their pixels are."""

    data_dir: Annotated[Path, arg(aliases=["--data-path"])]
    """folder or LMDB with train/ and val/"""
    engines: tuple[str, ...] = ("native", "torch", "dali-cpu")
    """engines, of native, torch, dali-cpu and dali-gpu; absent ones are named and left out"""
    images: Count = 1000
    """images of each split, at most"""
    img_size: Count | None = None
    """side of a crop, pixels; the checkpoint's, or 224, if not given"""
    batch_size: Annotated[Count, arg(aliases=["-b"])] = 64
    """images of a batch"""
    workers: Annotated[int, Field(ge=0), arg(aliases=["-j", "--num-workers"])] = 2
    """threads or processes of each engine"""
    checkpoint: Path | None = None
    """checkpoint of which to compare the validation accuracy"""
    output: Path | None = None
    """picture of the image that differs most, to write; needs matplotlib"""


@dataclass
class Pair:
    """How two engines differ, over the crops of one split."""

    names: tuple[str, str]
    crops: int = 0
    total: float = 0.0  # of mean differences
    most: int = 0  # of a single value
    worst: float = -1.0  # mean difference of the worst crop
    index: int = -1  # of its image
    disputed: set[int] = field(default_factory=set)  # images that one refused or labelled otherwise

    @property
    def mean(self) -> float:
        """Mean difference, of 255."""
        return self.total / max(self.crops, 1)

    def add(self, left: Batch, right: Batch) -> None:
        """Compare two batches of the same request, image by image."""
        self.disputed |= set(left.bad.tolist()) ^ set(right.bad.tolist())
        indices, mine, yours = np.intersect1d(left.indices, right.indices, return_indices=True)
        if len(indices) == 0:
            return
        self.disputed |= set(indices[(left.labels[mine] != right.labels[yours]).numpy()].tolist())
        difference = (left.images[mine].short() - right.images[yours].short()).abs()
        means = difference.float().mean((1, 2, 3))
        self.crops, self.total = self.crops + len(means), self.total + means.double().sum().item()
        self.most = max(self.most, int(difference.max()))
        if means.max() > self.worst:
            self.worst, self.index = means.max().item(), int(indices[means.argmax()])

    def holds(self) -> bool:
        """Whether they differ by no more than they may."""
        return self.crops > 0 and self.mean <= LIMIT and not self.disputed


class Judge:
    """A network from a checkpoint, which says of images what class they are."""

    def __init__(self, path: Path, config: Config, classes: int) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = build_model(config.model, config.model.num_classes or classes)
        give_back({"state_dict": self.network}, load_checkpoint(path), path)
        self.network.to(self.device).eval()
        self.normalize = Normalizer(config.data.mean, config.data.std, self.device, torch.float32)

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> torch.Tensor:
        """The most likely class of each image: (n,), on the CPU."""
        return self.network(self.normalize(batch.images)).argmax(1).cpu()


class Comparison:
    """One split by several engines: what differs, how fast each is, and what a network says."""

    def __init__(self, splits: dict[str, Split], plan: Plan, judge: Judge | None) -> None:
        self.splits, self.plan, self.judge = splits, plan, judge
        self.store: Store = next(iter(splits.values())).store
        self.pairs = [Pair(names) for names in combinations(splits, 2)]
        self.seconds = dict.fromkeys(splits, 0.0)
        self.answers: dict[str, list[torch.Tensor]] = {name: [] for name in splits}
        self.labels: list[torch.Tensor] = []
        self.shown = self.other_windows = 0

    def add(self, requests: list[Request]) -> None:
        """Load some requests by every engine, and compare."""
        batches = {}
        for name, split in self.splits.items():
            start = time.perf_counter()
            batches[name] = [_on_cpu(batch) for batch in split.loader.batches(requests)]
            self.seconds[name] += time.perf_counter() - start
        for pair in self.pairs:
            for left, right in zip(*(batches[name] for name in pair.names), strict=True):
                pair.add(left, right)
        for request in requests:
            self.shown += len(request.indices)
            self.other_windows += sum(self._has_other_windows(request.epoch, index) for index in request.indices)
        if self.judge and not any(pair.disputed for pair in self.pairs):
            self.labels += [batch.labels for batch in next(iter(batches.values()))]
            for name, made in batches.items():
                self.answers[name] += [self.judge(batch) for batch in made]

    def lines(self, split: str) -> Iterator[str]:
        """What was found, for people."""
        windows = f"{self.other_windows} windows differ" if self.other_windows else "windows identical"
        yield f"{split}: {self.shown} crops of {self.plan.side(0)} pixels, {windows}"
        for pair in self.pairs:
            worst = f", most in {self.store.name(pair.index)} ({pair.worst:.4f})" if pair.crops else ""
            means = f"mean difference {pair.mean:.4f} of 255, largest {pair.most}{worst}"
            yield f"  {' - '.join(pair.names):20} {means}: {'ok' if pair.holds() else 'MISSED'}"
            if pair.disputed:
                names = ", ".join(self.store.name(index) for index in sorted(pair.disputed)[:LISTED])
                yield f"    {len(pair.disputed)} images are refused by one only, or have other labels: {names}"
        for name, seconds in self.seconds.items():
            yield f"  {name:20} {self.shown / seconds:.0f} images/s{self._accuracy(name)}"

    def holds(self) -> bool:
        """Whether all engines show the same images in the same windows, as nearly as they have to."""
        return not self.other_windows and all(pair.holds() for pair in self.pairs)

    def _accuracy(self, name: str) -> str:
        """The network's top-1 by one engine, and how many answers differ from those by the first."""
        if not self.labels:
            return ""
        first, ours = (torch.cat(self.answers[engine]) for engine in (next(iter(self.answers)), name))
        labels = torch.cat(self.labels)
        top1, other = 100 * (ours == labels).double().mean(), 100 * (first == labels).double().mean()
        changed = int((ours != first).sum())
        return f", top-1 {top1:.3f} % ({top1 - other:+.3f}, {changed} of {len(ours)} answers differ)"

    def _has_other_windows(self, epoch: int, index: int) -> bool:
        """Whether the sizes that engines take from the index, the header and Pillow lead to different windows."""
        sizes = _sizes(self.store, int(index))
        if len(sizes) < 2:
            return False
        found = [self.plan.views(epoch, np.array([index]), *np.array(size).reshape(2, 1)) for size in sizes]
        return any(not np.array_equal(a, b) for one in found[1:] for a, b in zip(found[0], one, strict=True))


def _sizes(store: Store, index: int) -> set[tuple[int, int]]:
    """Width and height of an image by each way to know them; nothing of a bad image, which has no window."""
    try:
        encoded, name = store.read(index), store.name(index)
        sizes = {probe(encoded, name).size}
        header = read_jpeg_header(encoded, name)
    except DataError:
        return set()
    extents = store.extents(np.array([index]))
    sizes |= {(header.width, header.height)} if header else set()
    return sizes | ({tuple(extents.sizes[0].tolist())} if extents else set())


def _on_cpu(batch: Batch) -> Batch:
    return batch._replace(images=batch.images.cpu())


def settings_for(config: CompareConfig) -> Config:
    """The checkpoint's settings, or the defaults, for the images of `config`."""
    saved = Config()
    if config.checkpoint:
        sections = load_checkpoint(config.checkpoint)["config"]
        saved = config_from_settings({name: sections[name] for name in ("model", "data")}, str(config.checkpoint))
    size = {"img_size": config.img_size, "val_resize": None, "val_crop": None} if config.img_size else {}
    own = {"data_dir": str(config.data_dir), "workers": config.workers, "on_bad_image": "skip", **size}
    return dataclasses.replace(saved, data=dataclasses.replace(saved.data, **own))


def open_engines(names: tuple[str, ...], split: str, config: DataConfig) -> tuple[dict[str, Split], list[str]]:
    """A split by each engine that is there, and a line about each that is not. UsageError if no two are."""
    found, absent = {}, []
    for name in names:
        choose(ENGINES, name, "--engines")
        try:
            found[name] = SPLITS[split](dataclasses.replace(config, loader=name), SEED)
        except EnvironmentFault as error:
            absent.append(f"{name} is absent: {error}")
    if len(found) < 2:
        raise UsageError(
            f"--engines {' '.join(names)}: two are needed, here are {', '.join(found) or 'none'}; {absent}"
        )
    return found, absent


def draw(loaders: dict[str, Loader], pair: Pair, name: str) -> "Figure":
    """The image that a pair differs most in, by every engine, and the difference of the pair, amplified."""
    figure = empty_figure((PANEL[0] * (len(loaders) + 1), PANEL[1]), "--output")
    crops = {engine: next(loader.batches([Request(0, np.array([pair.index]))])) for engine, loader in loaders.items()}
    shown = {engine: _on_cpu(batch).images[0].numpy() for engine, batch in crops.items()}
    left, right = (shown[engine].astype(int) for engine in pair.names)
    difference = np.abs(left - right)
    factor = 255 // max(int(difference.max()), 1)
    shown[f"{' - '.join(pair.names)}, x {factor}"] = (factor * difference).astype(np.uint8)
    for axes, (title, pixels) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
        axes.imshow(pixels, interpolation="nearest")
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    figure.suptitle(f"{name}: mean difference {pair.worst:.3f} of 255", fontsize=10)
    return figure


def _draw_worst(comparisons: list[Comparison], path: Path) -> None:
    """Write the picture of the image that differs most between any two engines, if there was any image."""
    pairs = [(comparison, pair) for comparison in comparisons for pair in comparison.pairs if pair.crops]
    if not pairs:
        return
    comparison, pair = max(pairs, key=lambda both: both[1].worst)
    loaders = {name: split.loader for name, split in comparison.splits.items()}
    draw(loaders, pair, comparison.store.name(pair.index)).savefig(path)
    print(f"the worst image: {path}")


def _refuse_output(path: Path) -> None:
    """What is wrong with --output is told before the work."""
    empty_figure(PANEL, "--output")
    if path.suffix != ".png" or not path.parent.is_dir():
        raise UsageError(f"--output {path}: must be a .png in a folder that exists")


def _chunks(images: NDArray[np.int64], size: int) -> Iterator[list[Request]]:
    """Requests for `images` in batches of `size`, some at a time."""
    requests = [Request(0, images[first : first + size]) for first in range(0, len(images), size)]
    together = max(1, CHUNK // size)
    yield from (requests[first : first + together] for first in range(0, len(requests), together))


def _compare_split(config: CompareConfig, settings: Config, split: str) -> tuple[Comparison, list[str]]:
    plans = {"train": training_plan(settings.data, SEED), "val": validation_plan(settings.data)}
    splits, absent = open_engines(config.engines, split, settings.data)
    store = next(iter(splits.values())).store
    judged = config.checkpoint and split == "val"
    judge = Judge(config.checkpoint, settings, len(store.classes)) if judged else None
    train = split == "train"
    images = training_order(settings.data, SEED, len(store)).epoch(0) if train else np.arange(len(store))
    comparison = Comparison(splits, plans[split], judge)
    for requests in _chunks(images[: config.images], config.batch_size):
        comparison.add(requests)
    return comparison, absent


def compare(config: CompareConfig) -> int:
    """Compare, print, and come back with 1 if engines differ by more than they may."""
    if config.output:
        _refuse_output(config.output)
    settings = settings_for(config)
    done = {}
    for split in SPLITS:
        done[split], absent = _compare_split(config, settings, split)
        for line in [*(absent if split == "train" else []), *done[split].lines(split)]:
            print(line, flush=True)
    if config.output:
        _draw_worst(list(done.values()), config.output)
    held = all(comparison.holds() for comparison in done.values())
    print(f"{'ok' if held else 'MISSED'}: at most {LIMIT} of 255 in the mean between any two engines")
    return 0 if held else 1


if __name__ == "__main__":
    script(CompareConfig, compare)
