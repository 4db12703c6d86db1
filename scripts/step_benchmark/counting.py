"""What a step needs: operations, bytes and multiply-adds, counted while it runs; and what the machine gives a second.

Bytes are those of all tensors that go into an operation and come out of it, as if nothing stayed in a cache, and once
more of those that it reads twice; views move none. ResNet-50 moves 124 GB in a step of 256 images of 224 px in bf16.
The limit of a step is the sum over its operations of the longer of two times: its bytes at the rate of a large copy,
its multiply-adds at that of a large matrix product or convolution, whichever is faster: the best that each reached on
the same machine. Caches are why a step of small tensors can be beyond it. Autograd functions that start kernels of
their own are seen by what they call through torch alone.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from utils.precision import allow_tf32

COMPUTE = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}  # past all caches
SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices
IMAGES = {"cpu": 16, "cuda": 256}  # of a convolution like those inside ResNet-50
CHANNELS, POSITIONS = 256, 28
TRIES = 7

# The arguments that an operation reads a second time: norms know their statistics after the first, and a convolution's
# backward has one kernel for the images and one for the weights.
TWICE_IN_TRAINING = {
    "native_batch_norm": (0,),
    "_native_batch_norm_legit": (0,),
    "_batch_norm_with_update": (0,),
    "cudnn_batch_norm": (0,),
    "native_group_norm": (0,),
}
TWICE = {
    "native_batch_norm_backward": (0, 1),
    "batch_norm_backward": (0, 1),
    "cudnn_batch_norm_backward": (0, 1),
    "native_group_norm_backward": (0, 1),
    "convolution_backward": (0,),
}
NOTHING_MOVES = ("empty", "new_empty", "_unsafe_view", "reshape", "detach", "lift_fresh")


class Rates(NamedTuple):
    """Bytes, read and written, and multiply-adds a second."""

    bandwidth: float
    multiply_adds: float

    def __str__(self) -> str:
        return f"a copy {self.bandwidth / 1e9:,.1f} GB/s, multiply-adds {2 * self.multiply_adds / 1e12:,.2f} Tflop/s"


class Counting(TorchDispatchMode):
    """Counts the operations that reach a device while it is on."""

    def __init__(self, rates: Rates) -> None:
        super().__init__()
        self.rates = rates
        self.operations, self.moved, self.multiply_adds, self.seconds = 0, 0, 0, 0.0

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if not _is_free(func):
            self._count(func, args, kwargs or {}, result)
        return result

    def _count(self, func: OpOverload, args: tuple, kwargs: dict, result: object) -> None:
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        moved = sum(map(_bytes, [*tensors, *_read_again(func, args)]))
        formula = flop_registry.get(func._overloadpacket)
        products = formula(*args, **kwargs, out_val=result) // 2 if formula else 0
        self.operations += 1
        self.moved += moved
        self.multiply_adds += products
        self.seconds += max(moved / self.rates.bandwidth, products / self.rates.multiply_adds)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _read_again(func: OpOverload, args: tuple) -> list[Tensor]:
    known = TWICE | TWICE_IN_TRAINING if torch.is_grad_enabled() else TWICE
    return [args[place] for place in known.get(func._overloadpacket.__name__, ())]


def _is_free(func: OpOverload) -> bool:
    """Whether it gives a view, or memory that nobody has written to."""
    views = [value.alias_info for value in func._schema.returns]
    is_view = any(alias is not None and not alias.is_write for alias in views)
    return is_view or func._overloadpacket.__name__.startswith(NOTHING_MOVES)


@torch.no_grad()
def measure_rates(device: str, precision: str, threads: int) -> Rates:
    """What a copy of a large tensor, and the faster of a product of large matrices and a convolution, reach at best."""
    torch.set_num_threads(threads)
    if device == "cuda":
        allow_tf32(precision == "tf32")
    source = torch.rand(COPY_BYTES[device] // 4, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * COPY_BYTES[device] / _seconds(lambda: target.copy_(source), device)
    side, positions = SIDE[device], IMAGES[device] * POSITIONS**2
    matrix = torch.randn(side, side, device=device).to(COMPUTE[precision])
    images = _channels_last(IMAGES[device], POSITIONS, precision, device)
    kernel = _channels_last(CHANNELS, 3, precision, device)
    product = side**3 / _seconds(lambda: matrix @ matrix, device)
    convolution = positions * 9 * CHANNELS**2 / _seconds(lambda: torch.conv2d(images, kernel, padding=1), device)
    return Rates(bandwidth, max(product, convolution))


def _channels_last(count: int, side: int, precision: str, device: str) -> Tensor:
    tensor = torch.randn(count, CHANNELS, side, side, device=device)
    return tensor.to(COMPUTE[precision], memory_format=torch.channels_last)


def _seconds(work: Callable[[], object], device: str) -> float:
    work()
    times = []
    for _ in range(TRIES):
        wait_for(device)
        begun = time.perf_counter()
        work()
        wait_for(device)
        times.append(time.perf_counter() - begun)
    return min(times)


def wait_for(device: str) -> None:
    """Until all that was asked of the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
