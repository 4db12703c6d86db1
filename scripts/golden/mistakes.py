"""Golden networks and numbers that are an ancestor's mistakes: ours under that name follow the paper."""

from dataclasses import dataclass

import torch

from models import build_model
from scripts.golden.comparing import Check, exact
from scripts.golden.layers_dropping import WrongGamma
from scripts.golden.models import multiply_adds
from utils.config.model import ModelConfig


@dataclass(frozen=True)
class Mistake:
    """A row: which network, the network of ours that follows the paper, and the size of that, for 224 px images."""

    item: str
    ours: ModelConfig
    parameters: int
    multiply_adds: int
    reason: str

    def checks(self) -> list[Check]:
        with torch.device("meta"):
            model = build_model(self.ours, 1000)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        return [
            exact("params", parameters, self.parameters),
            exact("macs", multiply_adds(model, [1, 3, 224, 224]), self.multiply_adds),
        ]


# Seeds.md 5.2 has the true size of the first. All four have 2 (2048 - 64) = 3,968 parameters fewer than the ancestor's:
# each block has a norm of its input in the place of one of its output.
POST_ACTIVATION = "the ancestor's is built from post-activation blocks, with a bare projection and one more norm"

MISTAKES = (
    Mistake("models/mz__resnet101v2", ModelConfig(model="resnet101v2"), 44_541_608, 7_801_405_440, POST_ACTIVATION),
    Mistake("models/mz__resnet152v2", ModelConfig(model="resnet152v2"), 60_185_256, 11_513_626_624, POST_ACTIVATION),
    Mistake(
        "models/mz__resnext50v2_32x4d",
        ModelConfig(model="resnext50_32x4d", block_order="pre"),
        25_021_352,
        4_230_479_872,
        POST_ACTIVATION,
    ),
    Mistake(
        "models/mz__resnext101v2_32x8d",
        ModelConfig(model="resnext101_32x8d", block_order="pre"),
        88_783_784,
        16_414_015_488,
        POST_ACTIVATION,
    ),
    WrongGamma(),
)


def mistake_of(item: str) -> Mistake | WrongGamma | None:
    """The row for an item such as `models/mz__resnet101v2`."""
    return next((row for row in MISTAKES if row.item == item), None)
