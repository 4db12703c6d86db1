"""How well a network's features tell classes apart: each validation image told by the training images most like it.

    python -m scripts.evaluate_knn --init-from RUN/best.pth --data-dir DIR
    python -m scripts.evaluate_knn --init-from theirs.pth --model resnet50 --norm pws --data-dir DIR --neighbours 20
    python -m scripts.evaluate_knn --init-from RUN/best.pth --data-dir DIR --leave-one-out

Features are what enters the classifier, of images shown as in validation; nothing is trained, and a file of features
alone, without classifier, does as well. With --leave-one-out validation images are told by each other. The features of
all training images are held in memory: 10 GB for ImageNet and a ResNet-50.
"""

from dataclasses import field
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from tqdm import tqdm

from data.batches import Normalizer
from data.channels import with_channels
from data.loaders import Split, open_validation
from data.order import validation_requests
from data.stores import Store, check_classes
from models import build_model
from models.interop.files import load_file
from models.starting import classifier_of, settings_in, start_from
from utils.config import DataConfig, ModelConfig
from utils.config.strict import STRICT
from utils.errors import UsageError
from utils.metrics import TOP, hits
from utils.neighbours import TEMPERATURE, directions, most_similar, same_class, votes
from utils.script import script


@dataclass(frozen=True, config=STRICT)
class NeighbourConfig:
    """Tell each validation image by the training images most like it, and count the hits."""

    init_from: Path
    """weights: of this trainer, torchvision, timm, an ancestor, or safetensors"""
    neighbours: Annotated[int, Field(ge=1)] = 200
    """training images that vote on each validation image"""
    temperature: Annotated[float, Field(gt=0)] = TEMPERATURE
    """votes weigh exp(cosine / temperature)"""
    leave_one_out: bool = False
    """tell validation images by each other; training images need not exist"""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """images that go through the network at once"""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)


class Bank(NamedTuple):
    """Features (n, c) of length one, and labels (n,)."""

    features: Tensor
    labels: Tensor


class Extractor:
    """A network that tells what enters its classifier."""

    def __init__(self, model: nn.Module, classifier: str, normalize: Normalizer) -> None:
        self.model, self.normalize = model.eval(), normalize
        model.get_submodule(classifier).register_forward_pre_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.kept = inputs[0].flatten(1)

    @torch.no_grad()
    def bank(self, split: Split, batch_size: int) -> Bank:
        """Features of all images, each shown once."""
        count, features, labels = len(split.store), [], []
        batches = split.loader.batches(validation_requests(count, batch_size, 0, 1))
        for batch in tqdm(batches, total=-(-count // batch_size), desc="features", disable=None):
            self.model(self.normalize(batch.images))
            features.append(directions(self.kept.float()))
            labels.append(batch.labels.to(self.kept.device))
        return Bank(torch.cat(features), torch.cat(labels))


def open_splits(config: NeighbourConfig) -> tuple[Split, Split]:
    """The images that vote, and those that are told."""
    val = open_validation(config.data, seed=0)
    if config.leave_one_out:
        return val, val
    train = open_validation(config.data, seed=0, split="train")
    check_classes(train.store, val.store)
    return train, val


def extractor(config: NeighbourConfig, store: Store, device: torch.device) -> Extractor:
    """The network of the file, whose classifier is of no account."""
    settings = settings_in(load_file(config.init_from), config.model, config.init_from)
    classifier = classifier_of(settings)
    if not classifier:
        raise UsageError(f"{settings.model} has no classifier whose input would be its features")
    model = build_model(settings, 1)
    start_from(model, settings, config.init_from, "fresh")
    data = with_channels(config.data, store)
    name = next(iter(classifier)).rpartition(".")[0]
    return Extractor(model.to(device), name, Normalizer(data.mean, data.std, device, torch.float32))


def evaluate(config: NeighbourConfig) -> None:
    """Make both banks, count, print."""
    train, val = open_splits(config)
    most = len(train.store) - config.leave_one_out
    if config.neighbours > most:
        raise UsageError(f"--neighbours {config.neighbours}: there are only {most} other images; use at most {most}")
    network = extractor(config, train.store, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    told = network.bank(val, config.batch_size)
    voting = told if config.leave_one_out else network.bank(train, config.batch_size)
    classes = len(val.store.classes)
    near = most_similar(told.features, voting.features, config.neighbours, leave_one_out=config.leave_one_out)
    right = hits(votes(near, voting.labels, classes, config.temperature), told.labels).tolist()
    tops = ", ".join(f"top-{top} {100 * hit / len(told.labels):.3f} %" for top, hit in zip(TOP, right, strict=True))
    alike = same_class(near, voting.labels, told.labels).double().mean().item()
    print(f"{len(told.labels)} images by {len(voting.labels)}, features of {told.features.shape[1]} numbers")
    print(f"kNN {config.neighbours} {tops}; {100 * alike:.3f} % of neighbours are of the same class")


if __name__ == "__main__":
    script(NeighbourConfig, evaluate)
