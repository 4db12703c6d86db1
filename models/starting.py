"""Networks that start from the weights in a file, and what of a network is its classifier."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from models import build_model
from models.interop import HEAD, load_weights, read
from utils.config.model import ModelConfig
from utils.errors import CheckpointError, UsageError

Dimensions = dict[str, int]  # name of a tensor -> the dimension that counts classes


def settings_in(content: Mapping[str, object], named: ModelConfig, path: Path) -> ModelConfig:
    """The network that a file's content says it is of, or else the one that was `named` by flags. UsageError if both
    speak, or the file is a folded one."""
    saved = content.get("config")
    if not isinstance(saved, Mapping) or not isinstance(saved.get("model"), Mapping):
        return named
    if named != ModelConfig():
        raise UsageError(f"{path} says itself that it is of {saved['model']['model']}; leave out --model and others")
    if content.get("folded"):
        raise UsageError(f"{path} is folded already; give the file that it was made from")
    return ModelConfig(**saved["model"])


def classifier_of(config: ModelConfig) -> Dimensions:
    """What of a network depends on the number of classes, found by building it for two numbers of them."""
    few, more = (_shapes(config, classes) for classes in (10, 11))
    differing = {name: [a == b for a, b in zip(few[name], more[name], strict=True)] for name in few}
    return {name: equal.index(False) for name, equal in differing.items() if False in equal}


def _shapes(config: ModelConfig, classes: int) -> dict[str, torch.Size]:
    with torch.device("meta"):
        model = build_model(replace(config, num_classes=None), classes)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def count_classes(config: ModelConfig, weights: Mapping[str, Tensor]) -> int | None:
    """How many classes weights under our names tell apart; None if they have no classifier."""
    counts = {weights[name].shape[at] for name, at in classifier_of(config).items() if name in weights}
    return max(counts, default=None)


def start_from(model: nn.Module, config: ModelConfig, path: Path, head: Literal["file", "fresh"]) -> None:
    """Give `model` the weights in a file; with a fresh head, its last norm may be missing and its classifier stays.

    CheckpointError, and nothing loaded, if anything does not fit.
    """
    weights, classifier = read(path, config.model), classifier_of(config)
    if head == "fresh":
        weights = {name: value for name, value in weights.items() if name not in classifier}
    else:
        _refuse_classifier(count_classes(config, weights), count_classes(config, model.state_dict()), path)
    may_lack = [name for name in model.state_dict() if HEAD.match(name) or name in classifier]
    try:
        load_weights(model, weights, may_lack=may_lack if head == "fresh" else ())
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _refuse_classifier(found: int | None, wanted: int | None, path: Path) -> None:
    if found is None and wanted is not None:
        raise CheckpointError(f"{path} has no classifier; to put a new one on its features, add --init-head fresh")
    if found != wanted:
        told = f"{path} tells {found} classes apart, this network {wanted}"
        raise CheckpointError(f"{told}; to take all but the classifier, add --init-head fresh")
