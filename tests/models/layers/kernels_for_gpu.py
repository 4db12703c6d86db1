"""Compiles every Triton kernel for an H100, which needs none: a process of its own, as the tests' own interprets them.

Prints a line for each: its module, its name, the bytes of machine code.
"""

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from models.layers import triton_bias, triton_norm, triton_standardization
from models.layers.triton_norm import Task

TARGET = GPUTarget("cuda", 90, 32)
TASK = Task(32, 28 * 28, 256, 32, 1e-5)  # group norm in the middle of ResNet-50
ACTIVATIONS = ("x", "shortcut", "y", "dy", "dx", "dz", "kernels", "dkernels")
FLOATS = ("sums", "mean", "variance", "weight", "bias", "means", "rules", "moments", "dweights", "dgains")
POINTERS = {**dict.fromkeys(ACTIVATIONS, "*bf16"), **dict.fromkeys(FLOATS, "*fp32")}
POINTERS |= dict.fromkeys(("places", "owners"), "*i64")
POSITIONS, CHANNELS = TASK.tile
SPLITS, MEMBERS = TASK.reduction(TASK.cut()[1])


def choices(name: str) -> list[dict[str, int]]:
    """What the constants of a kernel may be."""
    if name in ("_statistics", "_gradient_means"):
        return [{"TILE_S": SPLITS, "TILE_C": MEMBERS}]
    tile = {"TILE_P": POSITIONS, "TILE_C": CHANNELS, "WIDTH": triton_standardization.WIDEST}
    return [{**tile, "ADD": on, "RELU": on} for on in (True, False)]


def compiled(kernel: triton.JITFunction, constants: dict[str, int]) -> int:
    used = {name: value for name, value in constants.items() if name in kernel.arg_names}
    scalars = {"eps": "fp32"} | dict.fromkeys(used, "constexpr")
    signature = {name: scalars.get(name) or POINTERS.get(name, "i32") for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=used)
    return len(triton.compile(source, target=TARGET).asm["cubin"])


for module in (triton_norm, triton_bias, triton_standardization):
    for name, kernel in vars(module).items():
        if isinstance(kernel, triton.JITFunction):
            for constants in choices(name):
                print(module.__name__, name, compiled(kernel, constants))
