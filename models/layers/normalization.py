"""Normalizations, as rows that fill the slots of a block.

A normalization is a module after the convolution (bn, gn), another convolution (pws, wn), both (ws), or norm and
activation in one. A row says which; networks are written against `models.layers.Layers` and never ask.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from models.layers.convolution import PWSConv2d, PWSRule, WNConv2d, WSConv2d
from models.layers.sync import SyncBatchNorm2d
from utils.config.model import ModelConfig
from utils.errors import UsageError

NormLayer = Callable[[int], nn.Module]
ConvLayer = Callable[..., nn.Conv2d]


@dataclass(frozen=True)
class Normalization:
    """One choice of --norm: what it puts where. Each function gives a layer class, with its settings filled in.

    `norm` takes channels and stands after a convolution; `fused` stands for norm and activation together; `conv` is the
    convolution, with a bias if `conv_bias`; `ends` stands after the stem and before the head, for rows whose blocks
    have no norm; `block_order` is the order that it was made for. `settings`: the fields of ModelConfig that it reads
    and not every norm does.
    """

    norm: Callable[[ModelConfig], NormLayer] | None = None
    conv: Callable[[ModelConfig], ConvLayer] | None = None
    fused: Callable[[ModelConfig], NormLayer] | None = None
    ends: NormLayer | None = None
    conv_bias: bool = False
    block_order: str | None = None
    settings: tuple[str, ...] = ()


def _group_norm(config: ModelConfig) -> NormLayer:
    def layer(channels: int) -> nn.GroupNorm:
        if channels % config.norm_groups:
            divisors = [str(groups) for groups in range(1, channels + 1) if channels % groups == 0]
            raise UsageError(
                f"--norm-groups {config.norm_groups} does not divide the {channels} channels of a layer "
                f"of {config.model}; use one of {', '.join(divisors)}"
            )
        return nn.GroupNorm(config.norm_groups, channels)

    return layer


def _pws(config: ModelConfig) -> ConvLayer:
    return partial(PWSConv2d, rule=PWSRule(config.pws_gamma, config.pws_equiv == "on", config.pws_fan))


NORMALIZATIONS = {
    "bn": Normalization(norm=lambda config: nn.BatchNorm2d),
    "syncbn": Normalization(norm=lambda config: SyncBatchNorm2d),
    "gn": Normalization(norm=_group_norm, settings=("norm_groups",)),
    "in": Normalization(norm=lambda config: nn.InstanceNorm2d),
    "in_affine": Normalization(norm=lambda config: partial(nn.InstanceNorm2d, affine=True)),
    "ln": Normalization(norm=lambda config: partial(nn.GroupNorm, 1)),
    # Without biases: the parameter counts of the WN ancestor's `wn`, which was this (seeds.md 6).
    "none": Normalization(),
    "ws": Normalization(norm=_group_norm, conv=lambda config: WSConv2d, settings=("norm_groups",)),
    "ws_bn": Normalization(norm=lambda config: nn.BatchNorm2d, conv=lambda config: WSConv2d),
    "wn": Normalization(conv=lambda config: WNConv2d, conv_bias=True),
    "pws": Normalization(
        conv=_pws,
        conv_bias=True,
        ends=partial(nn.GroupNorm, 1),
        block_order="relu-first",
        settings=("pws_gamma", "pws_equiv", "pws_fan", "pws_gain"),
    ),
}
