"""Networks without their heads, for detection and segmentation: images in, the outputs of stages out.

A network that has stages says so: `levels` are the names of the modules that end its stem and its stages, each with the
channels that it gives, and up to the last of them it runs its modules in the order in which they are registered.
Level 0 is the stem before its pooling, level 1 the first stage, as in timm; PWSConv counts stages from 0.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from utils.errors import UsageError


class Backbone(nn.Module):
    """images: (n, 3, h, w) float, normalized -> {name of a level: (n, c, h', w')} for the levels that were asked for.

    `channels` are theirs. Modules keep the network's names, so its weights fit, less the head's. A stage's output is
    what the next stage gets: with the orders pre and relu-first nothing has activated it. Where stages are children of
    the network, as in ResNets, torchvision's BackboneWithFPN takes it; elsewhere its output is for
    FeaturePyramidNetwork.
    """

    def __init__(self, network: nn.Module, levels: list[str]) -> None:
        super().__init__()
        self.channels = [network.levels[name] for name in levels]
        self.wanted = set(levels)
        self.steps = steps_until(network, max(levels, key=list(network.levels).index))
        _keep(network, self.steps)
        for name, child in network.named_children():
            self.add_module(name, child)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        x, outputs = images, OrderedDict()
        for name in self.steps:
            x = self.get_submodule(name)(x)
            if name in self.wanted:
                outputs[name] = x
        return outputs


def backbone(network: nn.Module, name: str, out_indices: Sequence[int]) -> Backbone:
    """The network called `name` as far as its highest level in `out_indices`. UsageError if it has no such level."""
    levels = levels_of(network, f"out_indices {tuple(out_indices)}", name)
    if not out_indices or not set(out_indices) <= set(range(len(levels))):
        known = ", ".join(f"{i} ({level})" for i, level in enumerate(levels))
        raise UsageError(f"out_indices {tuple(out_indices)}: the levels of {name} are {known}")
    chosen = [levels[i] for i in sorted(set(out_indices))]
    if pairs := [level for level in chosen if not isinstance(network.levels[level], int)]:
        raise UsageError(
            f"out_indices {tuple(out_indices)}: {pairs[0]} of {name} gives maps of two frequencies, not one"
        )
    return Backbone(network, chosen)


def levels_of(network: nn.Module, wish: str, name: str) -> list[str]:
    """The names of the network's levels. UsageError, in which `wish` is what they are for, if it has none."""
    levels = getattr(network, "levels", None)
    if levels is None:
        raise UsageError(f"{wish} has no place in {name}, which has no stages; choose a ResNet or another network")
    return list(levels)


def steps_until(network: nn.Module, level: str) -> list[str]:
    """Names of the modules that run one after the other, up to the one called `level`."""
    steps = []
    for name in _steps(network, "", list(network.levels)):
        steps.append(name)
        if name == level:
            return steps
    raise AssertionError(f"{level} is not among {steps}")


def _steps(module: nn.Module, prefix: str, levels: list[str]) -> Iterator[str]:
    """Children, and of a child that has levels inside, its children in its place."""
    for name, child in module.named_children():
        full = prefix + name
        if any(level.startswith(f"{full}.") for level in levels):
            yield from _steps(child, f"{full}.", levels)
        else:
            yield full


def _keep(network: nn.Module, steps: list[str], prefix: str = "") -> None:
    """Take out of the network whatever is not among the steps."""
    for name, child in list(network.named_children()):
        full = prefix + name
        if any(step.startswith(f"{full}.") for step in steps):
            _keep(child, steps, f"{full}.")
        elif full not in steps:
            delattr(network, name)
