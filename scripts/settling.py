"""What `auto` stands for in a run: settled once, when it is fresh, kept in config.json and checkpoints, and taken from
there when it goes on."""

import copy
import dataclasses
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from scripts.compiling import AUTO, misfit
from scripts.network import Network
from utils import distributed
from utils.checkpoint import Found
from utils.config import TrainingConfig
from utils.layout import LAYOUTS, lay_out
from utils.log import say

WARM, TIMED = 5, 20  # steps of a probe: cuDNN tries its kernels in the first
Timer = Callable[[Callable[[], None], torch.device], float]


def settled(network: Network, found: Found | None, shards: int) -> TrainingConfig:
    """The settings of a run that begins, or goes on from `found`, without any auto."""
    training = network.config.training
    if training.channels_last == "auto":
        training = dataclasses.replace(training, channels_last=_layout(network, found))
    if training.compile == "auto":
        training = dataclasses.replace(training, compile=_mode(network, found, shards))
    return training


def _mode(network: Network, found: Found | None, shards: int) -> str:
    """The mode of the checkpoint, or the one that is best here if it goes with the other settings."""
    if found:
        return found.state["config"]["training"].get("compile", "off")  # there was none before it could be chosen
    best = dataclasses.replace(network.config.training, compile=AUTO[network.world.device.type])
    fits = not misfit(dataclasses.replace(network.config, training=best), network.world, shards)
    return best.compile if fits else "off"


def _layout(network: Network, found: Found | None) -> str:
    world = network.world
    if found:
        return found.state["config"]["training"].get("channels_last", "on")  # it was on before it could be chosen
    if world.device.type == "cpu" or network.config.training.exact:
        chosen, told = "on", "channels last (chosen by its time only on a GPU without --exact: bits differ between two)"
    else:
        times = step_seconds(network)
        chosen = distributed.from_first(world, min(times, key=times.get))
        words = {"on": "channels last", "off": "channels first"}
        told = ", ".join(f"{words[name]} {1000 * seconds:.1f} ms a step" for name, seconds in times.items())
    if world.is_first:
        say(f"layout     {told}")
    return chosen


def seconds_of(step: Callable[[], None], device: torch.device) -> float:
    """The mean time of a step, after some that warm up."""
    for _ in range(WARM):
        step()
    torch.cuda.synchronize(device)
    begin = time.perf_counter()
    for _ in range(TIMED):
        step()
    torch.cuda.synchronize(device)
    return (time.perf_counter() - begin) / TIMED


def step_seconds(network: Network, timer: Timer = seconds_of) -> dict[str, float]:
    """The time of a step forward and back in either layout, on noise of the run's own shape; it leaves no trace.

    Every rank takes the steps, for a norm may wait for the others, and the first one's times count. They are taken
    without torch.compile: what differs between layouts are the convolutions, which it leaves as they are.
    """
    side, batch, device = network.config.data.img_size, network.config.training.batch_size, network.world.device
    found = {}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        pixels = torch.randint(256, (batch, side, side, 3), dtype=torch.uint8, device=device)
        for name in ("on", "off"):
            model = copy.deepcopy(network.model).train()
            lay_out(model, LAYOUTS[name])
            found[name] = timer(partial(_step, network, model, network.normalizer(LAYOUTS[name]), pixels), device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return found


def _step(network: Network, model: nn.Module, normalize: Callable[[Tensor], Tensor], pixels: Tensor) -> None:
    model.zero_grad()
    with network.precision.autocast():
        logits = model(normalize(pixels))
    logits.float().logsumexp(1).mean().backward()
