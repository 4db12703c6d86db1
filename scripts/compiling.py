"""--compile: what it goes with, and the compilations before the first step."""

import os
import shutil
import time

import torch

from scripts.network import Network
from utils.compiling import cache_folder
from utils.config import Config
from utils.distributed import World
from utils.errors import EnvironmentFault, UsageError
from utils.replication import Replicas

# What --compile auto is on each type of device. A CPU is slower with it (ResNet-18, 64 px, batch 16: 563 ms a step
# against 378); on a GPU nobody has measured yet: "default" goes here where it wins.
AUTO = {"cpu": "off", "cuda": "off"}
# Modes that record CUDA graphs, and what they are without.
RECORDING = {"reduce-overhead": "default", "max-autotune": "max-autotune-no-cudagraphs"}


def misfit(config: Config, world: World, shards: int) -> str:
    """Why --compile does not go with the other settings, in one line; empty if it does."""
    training, mode = config.training, f"--compile {config.training.compile}"
    if training.exact:
        return f"{mode} does not promise the bits of --exact; leave one of them out"
    if config.model.drop_block:
        return f"{mode} would compile anew at each step, as the rate of --drop-block changes; leave one of them out"
    if config.model.norm == "syncbn":
        return f"{mode} does not take --norm syncbn, which waits for other ranks inside the network; leave it out"
    if training.compile not in RECORDING:
        return ""
    records = f"{mode} records CUDA graphs"
    if world.device.type == "cpu":
        return f"{records}, and --device is cpu; use {RECORDING[training.compile]}"
    if shards > world.size or config.optim.sam:
        several = "--sam" if config.optim.sam else "several shards a process"
        return f"{records}, which do not keep gradients for {several}; use {RECORDING[training.compile]}"
    return ""


def refuse_compilation(config: Config, world: World, shards: int) -> None:
    """UsageError where --compile does not go with the other settings, EnvironmentFault where it does not work."""
    if found := misfit(config, world, shards):
        raise UsageError(found)
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        told = f"--compile {config.training.compile} needs a C++ compiler, and there is no {compiler}"
        raise EnvironmentFault(f"{told}; install g++, or leave --compile out")


@torch.no_grad()
def compile_evaluation(network: Network) -> str:
    """Compile what a validation measures, on blank images; the time that each took, for the log."""
    side = network.config.data.val_crop or network.config.data.img_size
    told = []
    for name, measured in network.measured().items():
        begin = time.perf_counter()
        network.logits(measured.eval(), torch.zeros(1, side, side, 3, dtype=torch.uint8))
        told.append(f"{name} {time.perf_counter() - begin:.1f} s")
    return ", ".join(told)


def compile_beforehand(network: Network, replicas: Replicas, blank: torch.Tensor) -> str:
    """Compile training and evaluation, on blank images (n, side, side, 3) uint8; a line for the log."""
    begin = time.perf_counter()
    replicas.rehearse(network.normalize(blank), network.precision.autocast())
    training = f"training {time.perf_counter() - begin:.1f} s"
    mode = network.config.training.compile
    return f"compiled   {mode}: {training}, {compile_evaluation(network)}; kept for the next run in {cache_folder()}"
