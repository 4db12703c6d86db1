"""Golden checkpoints: files in the formats that the ancestors' trainers save, and the logits of their networks."""

import json
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.interop import HEAD, load_weights, read
from scripts.golden.comparing import Check, NotOursYet
from scripts.golden.models import golden_images
from scripts.golden.networks import build_network, our_network

EXPECTED = ".expected.npz"
TOLERANCE = 1e-5  # of the largest logit: the ancestors computed these in float32


def check_checkpoint(path: Path) -> list[Check]:
    """The logits that a file's weights give in our network. CheckpointError if they do not fit it."""
    with np.load(path.with_name(path.name + EXPECTED)) as file:
        expected, meta = torch.from_numpy(file["logits"]).double(), json.loads(str(file["meta"]))
    model, name = build_network(_network(path), expected.shape[1]), "logits"
    weights = read(path, our_network(_network(path)))
    if not any(HEAD.match(parameter) for parameter in weights):
        # Such a file's answer is the features that enter the classifier, with the neck of the whole checkpoint.
        load_weights(
            model, {**weights, **_neck(path)}, may_lack=[name for name in model.state_dict() if HEAD.match(name)]
        )
        model.fc, name = nn.Identity(), "features"
    else:
        load_weights(model, weights)
    found = _answer(model, int(re.search(r"(\d+)\)+$", meta["input"])[1]))
    return [Check(name, ((found - expected).abs().max() / expected.abs().max()).item(), TOLERANCE)]


def _network(path: Path) -> str:
    """The ancestor's name of the network in a file: `ws__cifar_resnet20` of `ws__cifar_resnet20.checkpoint.pth.tar`."""
    return path.name.split(".")[0]


def _neck(path: Path) -> dict[str, Tensor]:
    """The last norm of the whole network, from another file of it in the same folder."""
    for other in sorted(path.parent.glob(f"{_network(path)}.*")):
        neck = {} if other.name.endswith(EXPECTED) else read(other)
        if neck := {name: value for name, value in neck.items() if name.startswith("bn_last.")}:
            return neck
    raise NotOursYet("its features were computed with the neck of a whole checkpoint, which is not in this folder")


@torch.no_grad()
def _answer(model: nn.Module, height: int) -> Tensor:
    return model.double().eval()(golden_images(height).double())
