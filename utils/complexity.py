"""What a network costs: parameters, multiply-adds and activations, layer by layer, without computing anything.

Multiply-adds are half of what torch's own flop counter counts for one image in evaluation: those of convolutions and
matrix products, wherever they are called. Norms, activations, poolings and computed kernels count nothing. Activations
are the elements of what convolutions and linear layers give; arXiv 2003.13678 found a GPU's time to follow them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torchvision  # noqa: F401  makes torch.ops.torchvision
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

COUNTS = ("parameters", "multiply_adds", "activations")
COLUMNS = ("name", "kind", "output", "parameters", "multiply-adds", "activations")
SIDES = "<<<>>>"  # of the columns' cells
DEFORMABLE = torch.ops.torchvision.deform_conv2d  # torch's counter does not know it
Shape = Sequence[int]

# Modules of torch that count nothing and give what has their input's shape: they are passed by, as torch takes more
# time for the shapes of these alone than for all else.
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm, nn.InstanceNorm2d, nn.LayerNorm)
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.Mish, nn.GELU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid)
PASSED_BY = {*NORMS, *ACTIVATIONS, nn.Dropout}


@dataclass
class Layer:
    """A module, without the modules inside it. `shape` is that of what it gave, () if it was not called."""

    name: str
    kind: str
    shape: tuple[int, ...] = ()
    parameters: int = 0
    multiply_adds: int = 0
    activations: int = 0

    def cells(self) -> tuple[str, ...]:
        """What a table shows, in the order of `COLUMNS`."""
        return (self.name, self.kind, " x ".join(map(str, self.shape)), *(f"{getattr(self, it):,}" for it in COUNTS))


@dataclass(frozen=True)
class Complexity:
    """The layers, in the order of the network's modules; those that neither are called nor have parameters are out."""

    layers: tuple[Layer, ...]

    @property
    def total(self) -> Layer:
        """The whole network as one layer."""
        return Layer("total", "", **{name: sum(getattr(layer, name) for layer in self.layers) for name in COUNTS})

    def table(self) -> str:
        """A line a layer, and the totals."""
        return aligned([COLUMNS, *(layer.cells() for layer in self.layers), self.total.cells()], SIDES)


def aligned(rows: list[tuple[str, ...]], sides: str) -> str:
    """Rows of cells as lines, each column as wide as its widest cell; `sides` has < or > for each."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(row_of(cells, sides, widths) for cells in rows)


def row_of(cells: Sequence[str], sides: str, widths: Sequence[int]) -> str:
    """Cells in columns of these widths, as one line."""
    padded = [f"{cell:{side}{width}}" for cell, side, width in zip(cells, sides, widths, strict=True)]
    return "  ".join(padded).rstrip()


def measure(model: nn.Module, height: int, width: int) -> Complexity:
    """What `model` costs for one image (3, height, width). Its tensors may be anywhere; they are not read."""
    training = {module: module.training for module in model.modules()}
    passed_by = [module for module in training if type(module) in PASSED_BY]
    observer = _Observer(model)
    try:
        for module in passed_by:
            module.forward = _unchanged
        with observer.counter, torch.device("meta"), torch.no_grad():
            tensors = {name: torch.empty_like(tensor, device="meta") for name, tensor in _tensors(model)}
            dtype = next((tensor.dtype for tensor in tensors.values()), None)
            torch.func.functional_call(model.eval(), tensors, (torch.empty(1, 3, height, width, dtype=dtype),))
    finally:
        observer.stop()
        for module in passed_by:
            del module.forward  # its class has one
        for module, mode in training.items():
            module.training = mode
    return Complexity(observer.found())


def _unchanged(x: Tensor) -> Tensor:
    return x


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


class _Observer:
    """Watches the modules of a network while it runs: what each has spent apart from those inside it."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = {module: Layer(name, type(module).__name__) for name, module in model.named_modules()}
        self.counter = FlopCounterMode(display=False, custom_mapping={DEFORMABLE: _deformable_flops})
        self.open: list[list[int]] = []  # of each module that runs: flops at its begin, flops of those inside it
        self.hooks: list[RemovableHandle] = []
        counted: set[Tensor] = set()
        for module, layer in self.layers.items():
            own = set(module.parameters(recurse=False)) - counted  # what modules share is the first one's
            layer.parameters = sum(parameter.numel() for parameter in own)
            counted |= own
            self.hooks += [module.register_forward_pre_hook(self._enter), module.register_forward_hook(self._leave)]

    def _enter(self, module: nn.Module, inputs: object) -> None:
        self.open.append([self.counter.get_total_flops(), 0])

    def _leave(self, module: nn.Module, inputs: object, outputs: object) -> None:
        begin, inside = self.open.pop()
        spent = self.counter.get_total_flops() - begin
        if self.open:
            self.open[-1][1] += spent
        layer, first = self.layers[module], next(leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor))
        layer.shape = tuple(first.shape)
        layer.multiply_adds += (spent - inside) // 2
        layer.activations += first.numel() if spent > inside else 0

    def stop(self) -> None:
        """The network is as it was."""
        for hook in self.hooks:
            hook.remove()

    def found(self) -> tuple[Layer, ...]:
        """What is worth a line."""
        return tuple(layer for module, layer in self.layers.items() if _counts(module, layer))


def _counts(module: nn.Module, layer: Layer) -> bool:
    ran = layer.shape and not list(module.children()) and not isinstance(module, nn.Identity)
    return bool(ran or layer.parameters or layer.multiply_adds)


def _deformable_flops(x: Shape, weight: Shape, *rest: object, out_shape: Shape, **options: object) -> int:
    """weight: (c_out, c_in / groups, h, w). The reading between positions is not counted."""
    return 2 * math.prod(out_shape) * math.prod(weight[1:])
