"""Weights of any file we can read, written as plain ones, folded, or as ONNX.

    python -m scripts.convert_checkpoint RUN/best.pth --ema --output weights.safetensors
    python -m scripts.convert_checkpoint theirs.pth.tar --model resnet20 --output resnet20.pth
    python -m scripts.convert_checkpoint RUN/best.pth --fold bn --output folded.pth --onnx network.onnx

FILE is a checkpoint of this trainer, which says itself which network it is of, or a file of torchvision, timm, one of
the ancestors, or safetensors, whose network --model and --norm name. Plain weights are a state dict under our names,
which for ResNets are torchvision's. --fold kernels writes the kernels of weight-standardized, weight-normalized and PWS
convolutions out; --fold bn also merges batch norms into the convolutions before them, where nothing else reads what
those give. Beside folded weights lies how to build their network: `models.folding.load_folded(FILE)` does.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor, nn
from tyro.conf import Positional, arg

from models import build_model
from models.folding import Fold, Recipe, fold
from models.interop import AVERAGES, CONTAINERS, HEAD, load_weights, misfits, read
from models.interop.files import load_file, save_file
from models.starting import classifier_of, count_classes, settings_in
from utils.config import ModelConfig
from utils.errors import CheckpointError, EnvironmentFault, UsageError
from utils.files import write_atomically
from utils.script import script

NO_CLASSES = 1  # of the classifier that a network without one is built with, and that is not written


@dataclass(frozen=True)
class ConvertConfig:
    """Write the weights of any file we can read as plain ones, folded, or as ONNX."""

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """weights: of this trainer, torchvision, timm, an ancestor, or safetensors"""
    output: Path | None = None
    """file to write; .safetensors gives that format, any other name torch's"""
    onnx: Path | None = None
    """ONNX file to write, for any number of images of --img-size"""
    ema: bool = False
    """take the moving average of the weights or, where there is none, the equal one of --swa"""
    fold: Fold = "none"
    """kernels: write them out; bn: also merge batch norms"""
    img_size: int = 224
    """side of the images that ONNX is for, pixels"""
    model: ModelConfig = field(default_factory=ModelConfig)


def convert(config: ConvertConfig) -> None:
    """Read, check, write, and say what was done and what of the file was not taken."""
    if config.output is None and config.onnx is None:
        raise UsageError("nothing to write; name a file with --output or --onnx")
    content = load_file(config.file)
    settings = settings_in(content, config.model, config.file)
    weights = read(config.file, settings.model, average=config.ema)
    classes = count_classes(settings, weights)
    model = build_model(settings, classes or NO_CLASSES)
    lacking = _lacking(settings, model, weights) if classes is None else []
    _load(config.file, model, weights, lacking)
    print(f"{config.file}: {settings.model}, norm {settings.norm}, {classes or 'no'} classes, {len(weights)} tensors")
    if left := _left_out(content, config.ema):
        print(f"left in the file: {', '.join(left)}")
    network = fold(model, torch.zeros(1, 3, config.img_size, config.img_size), config.fold)
    if config.output:
        recipe = Recipe(settings, classes or NO_CLASSES, config.img_size, config.fold)
        _write(network, recipe, config.output, lacking)
    if config.onnx:
        if classes is None:
            raise CheckpointError(f"{config.file} has no classifier; ONNX is written of whole networks")
        _export(network, config.img_size, config.onnx)


def _lacking(settings: ModelConfig, model: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """What a file of features alone need not have: the classifier, and a last norm before it."""
    classifier = classifier_of(settings)
    return [n for n in model.state_dict() if n not in weights and (HEAD.match(n) or n in classifier)]


def _load(path: Path, model: nn.Module, weights: Mapping[str, Tensor], lacking: list[str]) -> None:
    """Give the network its weights. If some have no place, each is listed, and it is a CheckpointError."""
    for kind, tensors in misfits(model, weights, may_lack=lacking).items():
        print(*(f"{kind}: {tensor}" for tensor in tensors), sep="\n")
    try:
        load_weights(model, weights, may_lack=lacking)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _left_out(content: Mapping[str, object], average: bool) -> list[str]:
    """What lies beside the weights in the file, numbers and words with their values."""
    taken = AVERAGES if average else CONTAINERS
    wrapped = any(isinstance(content.get(key), Mapping) for key in taken)
    left = {name: value for name, value in content.items() if name not in taken} if wrapped else {}
    return [f"{name} {value}" if isinstance(value, int | float | str) else name for name, value in left.items()]


def _write(network: nn.Module, recipe: Recipe, path: Path, lacking: list[str]) -> None:
    weights = {name: value for name, value in network.state_dict().items() if name not in lacking}
    save_file(path, weights, recipe.facts() if recipe.how != "none" else {})
    print(f"wrote {path}: {len(weights)} tensors, {sum(value.numel() for value in weights.values()):,} numbers")
    if lacking:
        print(f"without what the file lacks: {', '.join(lacking)}")
    if recipe.how != "none":
        print(f"build it by models.folding.load_folded('{path}')")


def _export(network: nn.Module, side: int, path: Path) -> None:
    """Write an ONNX file: images (n, 3, side, side) -> logits (n, classes)."""
    if absent := [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]:
        raise EnvironmentFault(f"--onnx needs the packages {' and '.join(absent)}; pip install {' '.join(absent)}")
    program = torch.onnx.export(
        network,
        (torch.zeros(2, 3, side, side),),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("n")},),
        dynamo=True,
        verbose=False,
    )
    content = program.model_proto.SerializeToString()
    write_atomically(path, lambda file: file.write(content))
    print(f"wrote {path}: {len(content):,} bytes")


if __name__ == "__main__":
    script(ConvertConfig, convert)
