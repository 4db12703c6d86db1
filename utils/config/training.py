"""How a step is computed."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from tyro.conf import arg

from utils.config.strict import STRICT

Compilation = Literal["auto", "off", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


@dataclass(frozen=True, config=STRICT)
class TrainingConfig:
    """How a step is computed."""

    batch_size: Annotated[int, Field(ge=1), arg(aliases=["-b"])] = 128
    """images that one GPU sees at once: a shard"""
    shards: Annotated[int | None, Field(ge=1)] = None
    """shards in a global batch, fixed for the run; as many as processes if not given"""
    grad_accum_steps: Annotated[int | None, Field(ge=1)] = None
    """shards that one process adds up before a step: another way to give --shards"""
    precision: Annotated[Literal["fp32", "tf32", "fp16", "bf16", "fp64"], arg(aliases=["--dtype"])] = "fp32"
    """arithmetic of the network; --amp is fp16; fp64 is for checks"""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """layout of images and kernels; auto: on a GPU what some steps at the start of a run are faster in; on a CPU, and
    with --exact, on"""
    compile: Annotated[Compilation, arg(aliases=["--torchcompile"])] = "auto"
    """torch.compile of training and evaluation, by its mode, kept in ~/.cache/train_dist; auto is off: slower on a CPU,
    and not measured on a GPU yet"""
    loss_scale: Annotated[float | None, Field(gt=0), arg(aliases=["--static-loss-scale"])] = None
    """fp16: factor on the loss that stays as it is, such as 128; one that adapts if not given"""
    ddp_compress: Literal["off", "bf16"] = "off"
    """type of gradients on their way between processes: their own, or bfloat16, half of the bytes of float32"""
    exact: bool = False
    """same bits at any number of processes: tree order of additions, deterministic kernels, one thread on a CPU"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """seed of weights, order, plan and every draw"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """where the network runs"""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads per process; 0 leaves torch's choice"""
    model_ema: bool = False
    """keep an exponential moving average of the weights and evaluate it too"""
    model_ema_decay: Annotated[float, Field(ge=0, le=1)] = 0.9998
    """share of the average that one step keeps"""
    model_ema_warmup: Literal["off", "power", "ratio"] = "off"
    """smaller shares at first: step n keeps at most 1 - (1 + n)^(-2/3) (power, timm's) or (1 + n) / (10 + n) (ratio)"""
    model_ema_buffers: Literal["average", "copy", "reestimate"] = "average"
    """running statistics of the average: averaged too, copied, or estimated from an epoch before each validation"""
    precise_bn: Annotated[int, Field(ge=0)] = 0
    """steps whose batches the running statistics of norms are estimated from before each validation (arXiv 2105.07576);
    0 keeps the moving averages"""
    timeout: Annotated[float, Field(gt=0)] = 300.0
    """seconds that a process waits for the others before it gives up"""
