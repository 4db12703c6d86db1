"""A layer of ours beside a golden one: what the tables of classes build."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from models.interop import our_name
from scripts.golden.comparing import NotOursYet

Meta = Mapping[str, object]
Arguments = dict[str, object]
Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class Layer:
    """A layer of ours under test: the module, the outputs that the golden file names, and its names for parameters.

    `call` gets the module and the golden inputs. `whole`: the golden file has all that the module has. `names`:
    (pattern, replacement), before interop's for files of `network`.
    """

    module: nn.Module
    call: Callable[..., Outputs] = lambda module, x: {"y": module(x)}
    names: tuple[tuple[str, str], ...] = ()
    whole: bool = True
    network: str = ""

    def our_name(self, name: str) -> str:
        for pattern, replacement in self.names:
            name = re.sub(pattern, replacement, name)
        return our_name(name, self.network)


def take(arguments: Mapping[str, object], *names: str, **only: object) -> Arguments:
    """The named arguments that are there. NotOursYet for one that is neither named nor has the value in `only`."""
    for name, value in arguments.items():
        if name not in names and (name not in only or value != only[name]):
            raise NotOursYet(f"argument {name}={value!r} of this ancestor has no place in ours")
    return {name: arguments[name] for name in names if name in arguments}


WINDOW = ("kernel_size", "stride", "padding", "dilation", "groups", "bias")
