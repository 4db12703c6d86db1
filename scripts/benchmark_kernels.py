"""Times each fused layer, forward and backward, by torch's operations, compiled, and by Triton's kernels.

    python -m scripts.benchmark_kernels
    python -m scripts.benchmark_kernels --batch-size 256 --layers bn gn pws --methods plain triton --precision bf16

The layers stand behind the convolutions of a ResNet-50 at 224 px: norm and ReLU, with and without the addition of a
shortcut; for pws a 1x1 convolution with bias and ReLU. What each method computes is first held against the plain layer
in float64 on two images, and refused if it differs by more than its rounding. Methods take turns; told are medians, and
how often as long as reading the activations once (half a copy) that is: a norm with ReLU needs 8 such passes or more.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from models.layers import Layers
from models.layers.fused import refuse_kernels
from utils.config.model import ModelConfig
from utils.errors import NumericsError
from utils.log import say
from utils.script import script

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCES = {"fp32": 1e-3, "bf16": 6e-2, "fp16": 2e-2}  # of a whole tensor: rounding flips signs before the ReLU
SHAPES = ((64, 56), (256, 56), (512, 28), (1024, 14), (2048, 7))  # channels and side, by stage
WARMING = 3
Method = Literal["plain", "compile", "triton"]
Layer = Literal["bn", "gn", "ln", "pws", "wn"]


@dataclass(frozen=True)
class KernelsConfig:
    """Times each fused layer by torch's operations, compiled, and by Triton's kernels."""

    layers: tuple[Layer, ...] = ("bn", "gn", "pws")
    """which"""
    methods: tuple[Method, ...] = ()
    """which; all that the device has if not given"""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """images"""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """type of the activations"""
    repeats: Annotated[int, Field(ge=1)] = 11
    """times that each method is timed"""


class Ending(nn.Module):
    """What stands at the end of a residual branch: (convolution,) norm, addition if there is a shortcut, ReLU."""

    def __init__(self, layer: Layer, channels: int, kernels: str) -> None:
        super().__init__()
        layers = Layers(ModelConfig(norm=layer, kernels=kernels))
        conv, self.norm, self.act = layers.conv(channels, channels, 1), layers.norm(channels), layers.act()
        self.conv = conv if isinstance(self.norm, nn.Identity) else nn.Identity()
        self.fused = layers.add_act(self.conv, self.norm, self.act)

    def forward(self, x: Tensor, *shortcut: Tensor) -> Tensor:
        if self.fused is not None:
            return self.fused(x, *shortcut)
        x = self.norm(self.conv(x))
        return self.act(x + shortcut[0] if shortcut else x)


def made(layer: Layer, channels: int, method: Method) -> nn.Module:
    """The same weights whatever the method."""
    torch.manual_seed(0)
    ending = Ending(layer, channels, "triton" if method == "triton" else "plain")
    if method == "compile":
        ending.compile()
    return ending


def step(module: nn.Module, inputs: list[Tensor], seed: Tensor) -> list[Tensor]:
    """Forward and backward; the answer and the gradients of the inputs."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    with torch.autocast(seed.device.type, seed.dtype, enabled=seed.dtype in (torch.bfloat16, torch.float16)):
        y = module(*leaves)
    y.backward(seed)
    return [y, *(leaf.grad for leaf in leaves)]


def check(module: nn.Module, layer: Layer, inputs: list[Tensor], seed: Tensor, tolerance: float) -> None:
    """NumericsError unless it agrees with the plain layer in float64, as far as rounding lets it."""
    inputs, seed = [x[:2] for x in inputs], seed[:2]
    reference = made(layer, seed.shape[1], "plain").to(seed.device, torch.float64)
    exact = step(reference, [x.double() for x in inputs], seed.double())
    for found, wanted in zip(step(module, inputs, seed), exact, strict=True):
        error = ((found - wanted).norm() / wanted.norm()).item()
        if not error <= tolerance:
            raise NumericsError(f"{layer} of {seed.shape[1]} channels is {error:.1e} off, more than {tolerance}")


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long it takes, alone on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(config: KernelsConfig, layer: Layer, shape: tuple[int, int], added: bool, device: torch.device) -> None:
    """A line of the table."""
    (channels, side), dtype = shape, TYPES[config.precision]
    x = torch.randn(3, config.batch_size, channels, side, side, device=device).to(dtype)
    *inputs, seed = (tensor.contiguous(memory_format=torch.channels_last) for tensor in x[0 if added else 1 :])
    modules = {method: made(layer, channels, method).to(device) for method in config.methods}
    for module in modules.values():
        module.to(memory_format=torch.channels_last)
        check(module, layer, inputs, seed, TOLERANCES[config.precision])
    works = {name: lambda module=module: step(module, inputs, seed) for name, module in modules.items()}
    works["copy"] = lambda: seed.clone()
    times: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(WARMING + config.repeats):
        for name, work in works.items():
            taken = seconds(work, device)
            times[name] += [taken] if repeat >= WARMING else []
    one_pass = statistics.median(times.pop("copy")) / 2
    medians = {name: statistics.median(values) for name, values in times.items()}
    told = (f"{name} {value * 1e3:8.3f} ms {value / one_pass:5.1f} passes" for name, value in medians.items())
    say(f"{layer:3} {'added' if added else '':5} {channels:4} x {side}^2  {'   '.join(told)}")


def benchmark(config: KernelsConfig) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if "triton" in config.methods:
        refuse_kernels(ModelConfig(kernels="triton"), device, torch.float32)
    methods = config.methods or ("plain", "compile", *(("triton",) if device.type == "cuda" else ()))
    config = KernelsConfig(config.layers, methods, config.batch_size, config.precision, config.repeats)
    say(f"{torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU'}, torch {torch.__version__}, {config}")
    for layer in config.layers:
        for shape in SHAPES:
            for added in (False, True):
                measure(config, layer, shape, added, device)


if __name__ == "__main__":
    script(KernelsConfig, benchmark)
