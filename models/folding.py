"""Networks for whoever only wants their answers: kernels written out, batch norms merged into the convolutions before.

A folded network has plain convolutions only and the state dict of such; `load_folded` builds it from the recipe that
lies beside the weights in a file. Merging is a batch norm's own formula: W <- W g, b <- (b - mean) g + bias, with
g = weight / sqrt(variance + eps), as Jacob et al., arXiv 1712.05877, fold it.
"""

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models import build_model
from models.interop import load_weights
from models.interop.files import load_file
from models.layers.convolution import folded
from models.layers.ghost import GhostBatchNorm2d
from models.layers.sync import SyncBatchNorm2d
from utils.config.model import ModelConfig
from utils.errors import CheckpointError

Fold = Literal["none", "kernels", "bn"]


def fold(model: nn.Module, images: Tensor, how: Fold) -> nn.Module:
    """A copy of `model`, in evaluation: with the kernels written out, and with "bn" also its batch norms merged.

    images: (n, 3, h, w), of any size that the network takes; they only show which norm follows which convolution.
    """
    if how == "none":
        return copy.deepcopy(model).eval()
    plain = folded(model).eval()
    if how == "bn":
        for conv, norm in _pairs(plain, images):
            _merge(plain, conv, norm)
    return plain


class _Uses(TorchDispatchMode):
    """Counts how many operations read each tensor while it is on. Tensors are kept, so that no two share an id."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()
        self.kept: list[object] = []

    def __torch_dispatch__(self, operation: Callable, types: object, args: tuple = (), kwargs: dict | None = None):
        read = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        self.counts.update(id(tensor) for tensor in read)
        result = operation(*args, **(kwargs or {}))
        self.kept += [*read, result]
        return result


@torch.no_grad()
def _pairs(model: nn.Module, images: Tensor) -> list[tuple[str, str]]:
    """Names of convolutions and of the batch norms after them that can be merged: each is called once, and what the
    convolution gives goes nowhere else."""
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def record(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        return lambda module, inputs, output: calls.setdefault(name, []).append((inputs[0], output))

    modules = {name: module for name, module in model.named_modules() if _is_conv(module) or _is_norm(module)}
    hooks = [module.register_forward_hook(record(name)) for name, module in modules.items()]
    with _Uses() as uses:
        answer = model(images.to(next(model.parameters())))
        uses.counts.update(id(leaf) for leaf in tree_leaves(answer))
    for hook in hooks:
        hook.remove()
    once = {name: called[0] for name, called in calls.items() if len(called) == 1}
    made_by = {id(output): name for name, (_, output) in once.items() if _is_conv(modules[name])}
    norms = {name: id(given) for name, (given, _) in once.items() if _is_norm(modules[name])}
    return [(made_by[given], name) for name, given in norms.items() if given in made_by and uses.counts[given] == 1]


def _is_conv(module: nn.Module) -> bool:
    return type(module) is nn.Conv2d  # a subclass may do more than convolve


def _is_norm(module: nn.Module) -> bool:
    return type(module) in (nn.BatchNorm2d, SyncBatchNorm2d, GhostBatchNorm2d) and module.running_var is not None


@torch.no_grad()
def _merge(model: nn.Module, conv_name: str, norm_name: str) -> None:
    conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
    gain = torch.rsqrt(norm.running_var.double() + norm.eps)
    shift = -norm.running_mean.double() * gain
    if norm.affine:
        gain, shift = gain * norm.weight, shift * norm.weight + norm.bias
    bias = shift if conv.bias is None else conv.bias * gain + shift
    conv.weight.copy_(conv.weight * gain.view(-1, 1, 1, 1))
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype))
    model.set_submodule(norm_name, nn.Identity())


@dataclass(frozen=True)
class Recipe:
    """How a folded network is built: what a file of its weights says beside them."""

    config: ModelConfig
    num_classes: int
    image_size: int
    how: Fold

    def facts(self) -> dict[str, object]:
        settings = {"config": {"model": asdict(self.config)}, "arch": self.config.model}
        return settings | {"num_classes": self.num_classes, "image_size": self.image_size, "folded": self.how}

    @classmethod
    def of(cls, content: Mapping[str, object], path: Path) -> "Recipe":
        """The recipe in a file that was written with `facts`. CheckpointError if it has none."""
        try:
            config = ModelConfig(**content["config"]["model"])
            return cls(config, content["num_classes"], content["image_size"], content["folded"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is no folded network of scripts.convert_checkpoint ({error!r})") from error


def load_folded(path: str | Path) -> nn.Module:
    """The folded network in a file that scripts.convert_checkpoint wrote, in evaluation."""
    content = load_file(path)
    recipe = Recipe.of(content, Path(path))
    model = build_model(recipe.config, recipe.num_classes)
    model = fold(model, torch.zeros(1, 3, recipe.image_size, recipe.image_size), recipe.how)
    load_weights(model, content["state_dict"])
    return model
