"""Whether a peer's network is the same as ours: its parameters, and its answer with the same weights."""

from importlib import import_module
from typing import NamedTuple

import torch
from torch import nn

from models import build_model
from models.interop import load_weights, unwrap
from scripts.step_benchmark.contenders import ALL, CLASSES, NAMES, SEED
from utils.config import ModelConfig
from utils.errors import CheckpointError

SIDE, IMAGES = 64, 2
TOLERANCE = 1e-4  # of the largest logit, in float32


class Likeness(NamedTuple):
    """What was found; `same` parameters are asked for, an equal answer is told."""

    same: bool
    told: str


def likeness(contender: str, network: str, norm: str) -> Likeness:
    """Compare what `contender` has under our name `network` with ours, on the CPU."""
    module = ALL[contender].module
    peers_name = NAMES[module].get((network, norm))
    if peers_name is None:
        return Likeness(False, f"no {network} with norm {norm} is known of it")
    torch.manual_seed(SEED)
    theirs = import_module(f"scripts.step_benchmark.{module}").network(peers_name)
    ours = build_model(ModelConfig(model=network, norm=norm), CLASSES)
    counts = [sum(p.numel() for p in model.parameters()) for model in (theirs, ours)]
    if counts[0] != counts[1]:
        return Likeness(False, f"its {peers_name} has {counts[0]:,} parameters, ours {counts[1]:,}")
    return Likeness(True, f"{peers_name}: {counts[0]:,} parameters, {_answer(theirs, ours, network)}")


@torch.no_grad()
def _answer(theirs: nn.Module, ours: nn.Module, network: str) -> str:
    try:
        load_weights(ours, unwrap(theirs.state_dict(), network))
    except CheckpointError:
        return "weights under names that do not travel, answers not compared"
    images = torch.randn(IMAGES, 3, SIDE, SIDE)
    expected, found = theirs.eval()(images), ours.eval()(images)
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    return "the same answer" if error < TOLERANCE else f"an answer that differs by {error:.0e} of the largest logit"
