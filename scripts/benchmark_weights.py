"""Times all weights of a network that ws, a1, wn or pws compute, forward and backward: alone, together, by Triton.

    python -m scripts.benchmark_weights
    python -m scripts.benchmark_weights --model mobilenet_v2 --norm ws_bn --precision fp32 --methods alone together

`alone` is each layer by itself, as on a CPU; `together` is what a GPU does with --kernels plain. What each method gives
is first held against torch in float64, gradients too, and refused if it differs by more than its rounding. Methods take
turns; told are median and range, and how often as long as copying the weights once that is: one kernel each way needs
about 2 such copies.
"""

import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from models import build_model
from models.layers.convolution import StandardizedConv2d
from models.layers.fused import refuse_kernels
from models.layers.kernels import Convolutions, Kernels, Method, TritonStandardization, standardized
from scripts.benchmark_kernels import TYPES, seconds
from utils.config.model import ModelConfig
from utils.errors import NumericsError, UsageError
from utils.log import say
from utils.script import script

TOLERANCES = {"fp32": 1e-5, "bf16": 1e-2, "fp16": 1e-3}  # of all weights, and of all gradients
WARMING = 3


@dataclass(frozen=True)
class WeightsConfig:
    """Times all weights that ws, a1, wn or pws compute: alone, together, by Triton."""

    model: str = "resnet50"
    """network"""
    norm: Literal["ws", "ws_bn", "a1", "wn", "pws"] = "pws"
    """normalization"""
    methods: tuple[Literal["alone", "together", "triton"], ...] = ()
    """which; all that the device has if not given"""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """type that the convolutions would compute in"""
    repeats: Annotated[int, Field(ge=1)] = 11
    """times that each method is timed"""


def alone(convs: Convolutions) -> Kernels:
    """Each by itself, one after the other."""
    return {conv: conv.kernel().to(conv.compute_type()) for conv in convs}


METHODS: dict[str, Callable[[], Method]] = {
    "alone": lambda: alone,
    "together": lambda: standardized,
    "triton": TritonStandardization,
}


def step(method: Method, convs: Convolutions, seeds: list[Tensor], precision: str) -> list[Tensor]:
    """Weights in the order of the convolutions, then the gradients of parameters, those of a loss with such seeds."""
    parameters = [parameter for conv in convs for parameter in (conv.weight, conv.gain) if parameter is not None]
    device, dtype = seeds[0].device.type, TYPES[precision]
    with torch.autocast(device, dtype, enabled=dtype is not torch.float32):
        found = method(convs)
    kernels = [found[conv] for conv in convs]
    return [*kernels, *torch.autograd.grad(kernels, parameters, seeds)]


def check(name: str, method: Method, convs: Convolutions, seeds: list[Tensor], precision: str) -> None:
    """NumericsError unless it agrees with torch in float64, as far as rounding lets it."""
    exact = step(alone, [copy.deepcopy(conv).double() for conv in convs], [seed.double() for seed in seeds], "fp32")
    found, count = step(method, convs, seeds, precision), len(convs)
    for part, of_what in ((slice(count), "weights"), (slice(count, None), "gradients")):
        pairs = list(zip(found[part], exact[part], strict=True))
        off = torch.stack([(ours - theirs).norm() for ours, theirs in pairs]).norm()
        error = (off / torch.stack([theirs.norm() for _, theirs in pairs]).norm()).item()
        if not error <= TOLERANCES[precision]:
            raise NumericsError(f"{of_what} by {name} are {error:.1e} off, more than {TOLERANCES[precision]}")


def benchmark(config: WeightsConfig) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if "triton" in config.methods:
        refuse_kernels(ModelConfig(kernels="triton"), device, torch.float32)
    names = config.methods or ("alone", "together", *(("triton",) if device.type == "cuda" else ()))
    torch.manual_seed(0)
    model = build_model(ModelConfig(model=config.model, norm=config.norm), 10).to(device)
    model.to(memory_format=torch.channels_last)
    convs = [module for module in model.modules() if isinstance(module, StandardizedConv2d)]
    if not convs:
        raise UsageError(f"{config.model} with --norm {config.norm} computes no weights; choose another network")
    seeds = [torch.randn_like(conv.weight, dtype=TYPES[config.precision] if conv.autocasts else None) for conv in convs]
    methods = {name: METHODS[name]() for name in names}
    for name, method in methods.items():
        check(name, method, convs, seeds, config.precision)
    works = {
        name: lambda method=method: step(method, convs, seeds, config.precision) for name, method in methods.items()
    }
    works["copy"] = lambda: [conv.weight.detach().clone() for conv in convs]
    times: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(WARMING + config.repeats):
        for name, work in works.items():
            taken = seconds(work, device)
            times[name] += [taken] if repeat >= WARMING else []
    say(f"{torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU'}, torch {torch.__version__}, {config}")
    one_copy = statistics.median(times.pop("copy"))
    for name, values in times.items():
        middle = statistics.median(values)
        spread = f"{min(values) * 1e3:.2f} to {max(values) * 1e3:.2f}"
        say(f"{name:9} {middle * 1e3:8.2f} ms ({spread}) {middle / one_copy:6.1f} copies, {len(convs)} convolutions")


if __name__ == "__main__":
    script(WeightsConfig, benchmark)
