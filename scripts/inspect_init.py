"""Shows mean and variance of activations forward and of gradients backward, layer by layer, before any training.

    python -m scripts.inspect_init --model resnet50 --norm bn none pws --output init.png
    python -m scripts.inspect_init --model resnet50 --norm bn gn ws pws --data-dir DIR --output init.png
    python -m scripts.inspect_init --model resnet50 --norm none pws --layers convolutions --output init.png

A network trains well if neither fades or explodes on the way through it. Each norm gets a network of its own from the
same seed, one batch in training mode, and the gradient of its mean cross-entropy; gains of PWS start from that batch,
as in training. Without --data-dir images are noise of mean 0 and variance 1, labels drawn. The numbers are printed,
drawn to FILE.png and written to FILE.json beside it.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from data.batches import Normalizer
from data.channels import with_channels
from data.loaders import open_training
from data.order import training_order, training_requests
from models import build_model, set_data_gains, wants_data_gains
from scripts.drawing import INK, LEGEND, colour, dress, empty_figure, save_png
from utils.config import DataConfig, ModelConfig
from utils.config.strict import STRICT
from utils.errors import UsageError
from utils.files import write_json
from utils.script import script

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Literal["blocks", "convolutions"]
NOISE_CLASSES = 1000
MOST_NAMES = 30  # under an axis


@dataclass(frozen=True, config=STRICT)
class InspectConfig(ModelConfig):
    """Draw mean and variance of activations and gradients, layer by layer, before any training."""

    norm: tuple[str, ...] = ("bn", "none", "pws")
    """normalizations to compare, such as: bn gn ws pws"""
    layers: Points = "blocks"
    """where to measure: behind each residual block (and each layer outside of one), or each convolution"""
    batch_size: Annotated[int, Field(ge=2)] = 16
    """images in the batch"""
    seed: int = 0
    """of weights, noise and labels, and of the crops of real images"""
    output: Path = Path("init.png")
    """picture to write; the numbers go beside it, as .json"""
    data: DataConfig = field(default_factory=DataConfig)

    def of(self, norm: str) -> ModelConfig:
        """The network of one norm."""
        settings = {each.name: getattr(self, each.name) for each in fields(ModelConfig)}
        return ModelConfig(**settings | {"norm": norm})


class Batch(NamedTuple):
    """What all networks see, and what they are told it is."""

    images: Tensor  # (n, 3, h, w) float, normalized
    labels: Tensor  # (n,)
    classes: int
    source: str


class Moments(NamedTuple):
    """Of all numbers of a tensor together, or of several that are one layer's, as an octave convolution's."""

    mean: float
    variance: float

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> "Moments":
        values = torch.cat([tensor.detach().flatten() for tensor in tensors]).double()
        return cls(values.mean().item(), values.var().item())


class Measured(NamedTuple):
    """One layer: what it gives forward, and the gradient with respect to that."""

    name: str
    activation: Moments
    gradient: Moments


def read_batch(config: InspectConfig) -> Batch:
    """The first training batch of --data-dir, or noise."""
    if config.data.data_dir is None:
        draw = torch.Generator().manual_seed(config.seed)
        side, classes = config.data.img_size, config.num_classes or NOISE_CLASSES
        images = torch.randn(config.batch_size, 3, side, side, generator=draw)
        return Batch(images, torch.randint(classes, (config.batch_size,), generator=draw), classes, "noise")
    split = open_training(config.data, config.seed)
    data = with_channels(config.data, split.store)
    order = training_order(data, config.seed, len(split.store))
    requests = training_requests(order, config.batch_size, 1, range(1), 0, 1)
    found = next(split.loader.batches(requests))
    normalize = Normalizer(data.mean, data.std, torch.device("cpu"), torch.float32)
    classes = config.num_classes or len(split.store.classes)
    return Batch(normalize(found.images).contiguous(), found.labels, classes, config.data.data_dir)


def measured_layers(model: nn.Module, points: Points) -> dict[str, nn.Module]:
    """The modules behind which is measured, by name."""
    if points == "convolutions":
        return {name: module for name, module in model.named_modules() if _weighs(module)}
    return dict(_blocks(model))


def _weighs(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.Linear)


def _blocks(parent: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules with weights in them that are no mere sequences of others."""
    for name, module in parent.named_children():
        if isinstance(module, nn.Sequential):
            yield from _blocks(module, f"{prefix}{name}.")
        elif any(_weighs(part) for part in module.modules()):
            yield prefix + name, module


def measure(model: nn.Module, batch: Batch, points: Points) -> list[Measured]:
    """One step's forward and backward pass in training mode, in the order of execution."""
    if wants_data_gains(model):
        set_data_gains(model, batch.images)
    forward: dict[str, Moments] = {}
    backward: dict[str, list[Tensor]] = {}
    hooks = [
        module.register_forward_hook(_recorder(name, forward, backward))
        for name, module in measured_layers(model, points).items()
    ]
    F.cross_entropy(model.train()(batch.images), batch.labels).backward()
    for hook in hooks:
        hook.remove()
    return [
        Measured(name, moments, Moments.of(backward[name])) for name, moments in forward.items() if name in backward
    ]


def _recorder(
    name: str, forward: dict[str, Moments], backward: dict[str, list[Tensor]]
) -> Callable[[nn.Module, tuple[object, ...], object], None]:
    # Moments are taken at once: an activation in place may follow.
    def record(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        forward[name] = Moments.of(tensors)
        for tensor in tensors:
            tensor.register_hook(backward.setdefault(name, []).append)

    return record


@dataclass(frozen=True)
class Panel:
    """One of the four pictures: a number of each layer. `logarithmic` for what may span many powers of ten."""

    title: str
    value: Callable[[Measured], float]
    logarithmic: bool


PANELS = (
    Panel("Activations: mean", lambda layer: layer.activation.mean, logarithmic=False),
    Panel("Activations: variance", lambda layer: layer.activation.variance, logarithmic=True),
    Panel(
        "Gradients: mean, in standard deviations",
        lambda layer: layer.gradient.mean / layer.gradient.variance**0.5 if layer.gradient.variance > 0 else 0.0,
        logarithmic=False,
    ),
    Panel("Gradients: variance", lambda layer: layer.gradient.variance, logarithmic=True),
)


def draw(found: dict[str, list[Measured]], title: str) -> "Figure":
    """Four panels under one legend, a curve for each norm."""
    from matplotlib.lines import Line2D

    figure = empty_figure((13.5, 8.4), "inspect_init")
    names = max(([layer.name for layer in layers] for layers in found.values()), key=len)
    for axes, panel in zip(figure.subplots(2, 2, sharex=True).flat, PANELS, strict=True):
        for order, layers in enumerate(found.values()):
            places = [names.index(layer.name) if layer.name in names else i for i, layer in enumerate(layers)]
            values = [panel.value(layer) for layer in layers]
            width = 3 - 1.6 * order / len(found)  # curves drawn later lie on top: equal ones beneath still show
            axes.plot(
                places, values, color=colour(order, len(found)), linewidth=width, marker="o", markersize=width + 2
            )
        dress(axes, panel.title, "")
        _name_layers(axes, names)
        if panel.logarithmic:
            axes.set_yscale("log")
    handles = [
        Line2D([], [], color=colour(order, len(found)), linewidth=4, label=norm) for order, norm in enumerate(found)
    ]
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    figure.legend(handles=handles, loc="outside upper right", ncols=len(found), **LEGEND)
    return figure


def _name_layers(axes: "Axes", names: Sequence[str]) -> None:
    stride = -(-len(names) // MOST_NAMES)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_xticks(range(0, len(names), stride), names[::stride], rotation=90, fontsize=8)


def _tell(norm: str, layers: Sequence[Measured]) -> None:
    print(f"\n{norm:20} {'activation':>12} {'':>12} {'gradient':>12}")
    print(f"{'layer':20} {'mean':>12} {'variance':>12} {'mean':>12} {'variance':>12}")
    for name, activation, gradient in layers:
        print(f"{name:20} " + " ".join(f"{value:12.4g}" for value in (*activation, *gradient)))


def _as_json(layers: Sequence[Measured]) -> list[dict[str, object]]:
    """Numbers that are not finite become null: JSON has none."""
    rows = [
        {"layer": name, "activation": activation._asdict(), "gradient": gradient._asdict()}
        for name, activation, gradient in layers
    ]
    return json.loads(json.dumps(rows), parse_constant=lambda _: None)


def inspect(config: InspectConfig) -> None:
    """Measure, print, draw, write."""
    if not config.norm:
        raise UsageError("--norm names no normalization; name one or several, such as bn pws")
    if config.output.suffix != ".png":
        raise UsageError(f"--output {config.output} must end in .png; the numbers go beside it, as .json")
    batch, found = read_batch(config), {}
    with torch.device("meta"):  # a mistake is told before anything is measured
        for norm in config.norm:
            build_model(config.of(norm), batch.classes)
    for norm in config.norm:
        torch.manual_seed(config.seed)
        found[norm] = measure(build_model(config.of(norm), batch.classes), batch, config.layers)
        _tell(norm, found[norm])
    shape = " x ".join(map(str, batch.images.shape))
    save_png(draw(found, f"{config.model} at the start, {shape} of {batch.source}"), config.output)
    facts = {"model": asdict(config.of(config.norm[0])) | {"norm": config.norm}, "seed": config.seed}
    facts |= {"images": batch.source, "shape": list(batch.images.shape), "layers": config.layers}
    numbers = config.output.with_suffix(".json")
    write_json(numbers, facts | {"norms": {norm: _as_json(layers) for norm, layers in found.items()}})
    print(f"\n{config.output}\n{numbers}")


if __name__ == "__main__":
    script(InspectConfig, inspect)
