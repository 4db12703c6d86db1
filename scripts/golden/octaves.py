"""ModelZoo.pytorch's octave networks with its mistakes, in which alone they differ from ours of the form `re`."""

import re
from dataclasses import replace

from torch import nn

from models.layers import Layers
from models.octave import OCTAVES
from utils.config.model import ModelConfig

NAME = r"mz__oct_resnet_re_resne[tx]+(?P<size>\d+(_\w+)?)_a(?P<alpha>\d+)"


def mistaken_octave(name: str, num_classes: int) -> nn.Module | None:
    """Our network with two blocks in every stage, and alpha for the epsilon of one norm (seeds.md 5.4 and 8.39)."""
    match = re.fullmatch(NAME, name)
    if not match:
        return None
    size, alpha = match["size"], float(f"{match['alpha'][0]}.{match['alpha'][1:]}")
    row = OCTAVES[f"oct_{'resnext' if '_' in size else 'resnet'}{size}_re"]
    model = replace(row, depths=(2, 2, 2, 2)).build(Layers(ModelConfig(octave_alpha=alpha)), num_classes)
    model.layer4[0].bn3.eps = alpha
    return model
