"""Normalizations, as rows that fill the slots of a block.

A normalization is a module after the convolution (bn, gn), another convolution (pws, wn), both (ws), or norm and
activation in one. A row says which; networks are written against `models.layers.Layers` and never ask.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from models.layers.channels import refuse_groups
from models.layers.convolution import A1Conv2d, PWSConv2d, PWSRule, WNConv2d, WSConv2d
from models.layers.evonorm import EvoNormB0, EvoNormS0
from models.layers.frn import FilterResponseNorm
from models.layers.group_norm import GroupNorm
from models.layers.instance_norm import InstanceNorm2d
from models.layers.sharing import PairedBatchNorm2d
from models.layers.switchnorm import SwitchNorm2d
from models.layers.sync import SyncBatchNorm2d
from utils.config.model import ModelConfig
from utils.errors import UsageError

NormLayer = Callable[[int], nn.Module]
ConvLayer = Callable[..., nn.Conv2d]

LAYER_NORM = partial(GroupNorm, 1)  # over channels and positions, with a gain and a bias for each channel


@dataclass(frozen=True)
class Normalization:
    """One choice of --norm: what it puts where. Each function gives a layer class, with its settings filled in.

    `norm` takes channels and stands after a convolution; `fused` stands for norm and activation together; `conv` is the
    convolution, with a bias if `conv_bias`; `ends` stands after the stem and before the head, for rows whose blocks
    have no norm; `block_order` is the order that it was made for; `gate` stands inside attentions, where channels may
    be few and there may be one position. `settings`: the fields of ModelConfig that it reads and not every norm does.
    """

    norm: Callable[[ModelConfig], NormLayer] | None = None
    conv: Callable[[ModelConfig], ConvLayer] | None = None
    fused: Callable[[ModelConfig], NormLayer] | None = None
    ends: NormLayer | None = None
    gate: NormLayer | None = LAYER_NORM
    conv_bias: bool = False
    block_order: str | None = None
    settings: tuple[str, ...] = ()


def _group_norm(config: ModelConfig) -> NormLayer:
    def layer(channels: int) -> GroupNorm:
        refuse_groups("--norm-groups", config.norm_groups, channels, config.model)
        return GroupNorm(config.norm_groups, channels)

    return layer


def _paired_batch_norm(config: ModelConfig) -> NormLayer:
    def layer(channels: int) -> PairedBatchNorm2d:
        if channels % 2:
            found = f"a layer of {config.model} has {channels}"
            raise UsageError(f"--norm bng2 is for pairs of channels, and {found}; choose another --norm or --width")
        return PairedBatchNorm2d(channels)

    return layer


def _evonorm_s0(config: ModelConfig, *, linear: bool) -> NormLayer:
    def layer(channels: int) -> EvoNormS0:
        refuse_groups("--norm-groups", config.norm_groups, channels, config.model)
        return EvoNormS0(channels, config.norm_groups, linear=linear)

    return layer


def _pws(config: ModelConfig) -> ConvLayer:
    return partial(PWSConv2d, rule=PWSRule(config.pws_gamma, config.pws_equiv == "on", config.pws_fan))


def _batch_norm(config: ModelConfig) -> NormLayer:
    return nn.BatchNorm2d


NORMALIZATIONS = {
    "bn": Normalization(norm=_batch_norm, gate=nn.BatchNorm2d),
    "syncbn": Normalization(norm=lambda config: SyncBatchNorm2d, gate=SyncBatchNorm2d),
    "bng2": Normalization(norm=_paired_batch_norm, gate=nn.BatchNorm2d),
    "gn": Normalization(norm=_group_norm, settings=("norm_groups",)),
    "in": Normalization(norm=lambda config: InstanceNorm2d),
    "in_affine": Normalization(norm=lambda config: partial(InstanceNorm2d, affine=True)),
    "ln": Normalization(norm=lambda config: LAYER_NORM),
    "switchnorm": Normalization(norm=lambda config: SwitchNorm2d, gate=nn.BatchNorm2d),
    "evonorm_b0": Normalization(
        norm=lambda config: partial(EvoNormB0, linear=True),
        fused=lambda config: EvoNormB0,
        gate=nn.BatchNorm2d,
        block_order="pre",
    ),
    "evonorm_s0": Normalization(
        norm=partial(_evonorm_s0, linear=True),
        fused=partial(_evonorm_s0, linear=False),
        block_order="pre",
        settings=("norm_groups",),
    ),
    "frn": Normalization(
        norm=lambda config: partial(FilterResponseNorm, linear=True),
        fused=lambda config: FilterResponseNorm,
        block_order="pre",
    ),
    # Without biases: the parameter counts of the WN ancestor's `wn`, which was this (seeds.md 6).
    "none": Normalization(gate=None),
    "ws": Normalization(norm=_group_norm, conv=lambda config: WSConv2d, settings=("norm_groups",)),
    "ws_bn": Normalization(norm=_batch_norm, conv=lambda config: WSConv2d, gate=nn.BatchNorm2d),
    "a1": Normalization(norm=_batch_norm, conv=lambda config: A1Conv2d, gate=nn.BatchNorm2d),
    "wn": Normalization(conv=lambda config: WNConv2d, conv_bias=True, gate=None),
    "pws": Normalization(
        conv=_pws,
        conv_bias=True,
        ends=LAYER_NORM,
        block_order="relu-first",
        settings=("pws_gamma", "pws_equiv", "pws_fan", "pws_gain"),
    ),
}
