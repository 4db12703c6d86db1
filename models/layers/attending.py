"""Attentions, as rows that say which slot of a network each fills.

An attention stands at the end of a residual branch (before the addition), after a stage, or in the place of a 3x3
convolution with its norm and activation. Networks ask `models.layers.Layers` for what stands there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from torch import nn

from models.layers.attention import (
    BottleneckAttention,
    ConvolutionalBlockAttention,
    EfficientChannelAttention,
    GlobalContext,
    SpatialGroupEnhance,
    SqueezeExcitation,
    StyleRecalibration,
)
from models.layers.channels import refuse_groups
from models.layers.lambda_layer import LambdaLayer, LocalPositions
from models.layers.selective import SelectiveKernel
from models.layers.sharing import GlobalGate
from models.layers.split_attention import SplitAttentionConv, Splits
from utils.config.model import ModelConfig
from utils.errors import UsageError

REDUCTION = 16  # channels over those inside an attention
SGE_GROUPS = 64  # of PytorchInsight's networks, seeds.md 4.2
GL_GROUPS = 4  # of its ShuffleNets, seeds.md 4.3
SK_GROUPS = 32
SK_LEAST = 32  # channels that the paper's mixing has at least, arXiv 1903.06586
RADIX, SPLIT_REDUCTION, SPLIT_LEAST = 2, 4, 32  # of ResNeSt, arXiv 2004.08955
LAMBDA_HEADS, LAMBDA_KEYS, LAMBDA_CONTEXT = 4, 16, 15  # of ModelZoo.pytorch's networks, seeds.md 5.5


class Maker(Protocol):
    """What makes the layers: `models.layers.Layers`."""

    config: ModelConfig

    def gate_norm(self, channels: int, **options: bool) -> nn.Module: ...


@dataclass(frozen=True)
class Attention:
    """One choice of --attention: the place, and what builds it from `Layers` and channels (for conv3x3: in and out).

    `settings`: the fields of ModelConfig that it reads and not every attention does.
    """

    place: Literal["branch", "stage", "conv3x3", "none"]
    build: Callable[..., nn.Module]
    settings: tuple[str, ...] = ()


def _hidden(layers: Maker, channels: int, own: int = REDUCTION, least: int = 1) -> int:
    return max(channels // (layers.config.attention_reduction or own), least)


def _groups(layers: Maker, channels: int, own: int) -> int:
    groups = layers.config.attention_groups or own
    refuse_groups("--attention-groups", groups, channels, layers.config.model)
    return groups


def _gl(layers: Maker, channels: int) -> nn.Module:
    return GlobalGate(channels, _groups(layers, channels, GL_GROUPS), layers.gate_norm(1, affine=False))


def _sk(layers: Maker, c_in: int, c_out: int, stride: int, groups: int) -> nn.Module:
    """PytorchInsight's: the convolution itself, and one with groups (seeds.md 4.2)."""
    grouped = _groups(layers, c_out, SK_GROUPS)
    branches = [{"stride": stride, "groups": number} for number in (groups, grouped)]
    return SelectiveKernel(c_in, c_out, _hidden(layers, c_out), branches, layers)


def _sk_paper(layers: Maker, c_in: int, c_out: int, stride: int, groups: int) -> nn.Module:
    """The paper's: two grouped convolutions, one with dilation 2 for a 5x5."""
    grouped = max(groups, _groups(layers, c_out, SK_GROUPS))
    branches = [{"stride": stride, "groups": grouped, "dilation": dilation} for dilation in (1, 2)]
    return SelectiveKernel(c_in, c_out, _hidden(layers, c_out, least=SK_LEAST), branches, layers)


def _split(layers: Maker, c_in: int, c_out: int, stride: int, groups: int, authors: bool = False) -> nn.Module:
    hidden = _hidden(layers, c_in * RADIX, SPLIT_REDUCTION, SPLIT_LEAST)
    return SplitAttentionConv(c_in, c_out, stride, groups, Splits(hidden, RADIX, authors), layers)


def _lambda(layers: Maker, c_in: int, c_out: int, stride: int, groups: int) -> nn.Module:
    if groups > 1:
        raise UsageError(f"--attention lambda has no groups, the 3x3 of {layers.config.model} has {groups}")
    positions = LocalPositions(LAMBDA_KEYS, LAMBDA_CONTEXT)
    layer = LambdaLayer(c_in, c_out, LAMBDA_HEADS, LAMBDA_KEYS, positions, layers, stride)
    if isinstance(layer.norm_q, nn.Identity):
        raise UsageError(
            f"--norm {layers.config.norm} has no norm for the queries and values of lambda layers, whose products "
            "overflow without; choose another, such as bn or ln"
        )
    return layer


ATTENTIONS = {
    "auto": Attention("none", nn.Identity),
    "se": Attention("branch", lambda layers, c: SqueezeExcitation(c, _hidden(layers, c)), ("attention_reduction",)),
    "cbam": Attention(
        "branch",
        lambda layers, c: ConvolutionalBlockAttention(c, _hidden(layers, c), layers.gate_norm),
        ("attention_reduction",),
    ),
    "sge": Attention(
        "branch", lambda layers, c: SpatialGroupEnhance(_groups(layers, c, SGE_GROUPS)), ("attention_groups",)
    ),
    "gc": Attention("branch", lambda layers, c: GlobalContext(c, _hidden(layers, c)), ("attention_reduction",)),
    "srm": Attention("branch", lambda layers, c: StyleRecalibration(c, layers.gate_norm)),
    "eca": Attention("branch", lambda layers, c: EfficientChannelAttention(c)),
    "gl": Attention("branch", _gl, ("attention_groups",)),
    "bam": Attention(
        "stage",
        lambda layers, c: BottleneckAttention(c, _hidden(layers, c), layers.gate_norm),
        ("attention_reduction",),
    ),
    "sk": Attention("conv3x3", _sk, ("attention_reduction", "attention_groups")),
    "sk_paper": Attention("conv3x3", _sk_paper, ("attention_reduction", "attention_groups")),
    "split": Attention("conv3x3", _split, ("attention_reduction",)),
    "split_paper": Attention("conv3x3", partial(_split, authors=True), ("attention_reduction",)),
    "lambda": Attention("conv3x3", _lambda),
}
