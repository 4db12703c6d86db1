"""Golden attentions, norms and activations of ResNets: the ancestors' classes -> what of ours stands for them."""

from collections import OrderedDict
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from models.interop.resnet import SELECTIVE
from models.layers import Layers
from models.layers.activation import ACTIVATIONS, Swish
from models.layers.attention import (
    BottleneckAttention,
    ChannelGate,
    ConvolutionalBlockAttention,
    GlobalContext,
    SpatialGroupEnhance,
    SqueezeExcitation,
    extremes,
)
from models.layers.convolution import A1Conv2d
from models.layers.evonorm import EvoNormB0, EvoNormS0
from models.layers.switchnorm import SwitchNorm2d
from models.resnet import ResNetShape, bottleneck, stage
from scripts.golden.layer import WINDOW, Layer, Meta, take
from utils.config.model import ModelConfig

REDUCTION = 16  # of the attentions that do not say theirs
POOLS = {"avg": "mean", "max": "max", "lp": "norm", "lse": "logsumexp"}  # their words -> ours
ACTS = {"h_swish": "hard-swish", "h_sigmoid": "hard-sigmoid", "lrelu": "leaky-relu", "quick_gelu": "quick-gelu"}
RUNNING = {"eps": 1e-5, "momentum": 0.9}  # their share of the old statistics


def _inside(path: str, module: nn.Module) -> Layer:
    """`module` where a block has it, so that interop's rows know its parameters."""
    for name in reversed(path.split(".")):
        module = nn.Sequential(OrderedDict([(name, module)]))
    return Layer(module, names=((r"^", f"{path.split('.')[0]}."),))


def _squeeze_excitation(channels: str, first: str) -> Callable[[Meta], Layer]:
    """`channels`: their name of that argument; `first`: of the first layer, and the second is two modules further."""
    path, _, at = first.rpartition(".")

    def build(meta: Meta) -> Layer:
        given = take(meta["ctor"], channels, "reduction")
        module = SqueezeExcitation(given[channels], given[channels] // given["reduction"])
        layer = _inside("attention", module)
        ours = tuple((rf"^{path}\.{int(at) + 2 * i}\.", f"attention.fc{i + 1}.") for i in range(2))
        return Layer(layer.module, names=ours)

    return build


def _cbam(meta: Meta) -> Layer:
    given = take(meta["ctor"], "gate_channels", "reduction_ratio", "pool_types", "no_spatial")
    channels, pools = given["gate_channels"], tuple(POOLS[name] for name in given.get("pool_types", ("avg", "max")))
    hidden = channels // given["reduction_ratio"]
    if given.get("no_spatial"):
        return _inside("attention.channel", ChannelGate(channels, hidden, pools))
    return _inside("attention", ConvolutionalBlockAttention(channels, hidden, nn.BatchNorm2d, pools))


def _channel_pool(meta: Meta) -> Layer:
    take(meta["ctor"])
    return Layer(nn.Identity(), call=lambda module, x: {"y": extremes(x)})


def _bam(meta: Meta) -> Layer:
    channels = take(meta["ctor"], "gate_channel")["gate_channel"]
    return _inside("attention", BottleneckAttention(channels, channels // REDUCTION, nn.BatchNorm2d))


def _sge(meta: Meta) -> Layer:
    return _inside("attention", SpatialGroupEnhance(take(meta["ctor"], "groups")["groups"]))


def _sk_block(meta: Meta) -> Layer:
    given = take(meta["ctor"], "inplanes", "planes", "stride", downsample=True)
    layers = Layers(ModelConfig(attention="sk"))
    blocks = stage(ResNetShape(bottleneck, ()), layers, given["inplanes"], given["planes"], given["stride"], 1)
    return Layer(blocks[0], names=((r"^", "."), *SELECTIVE, (r"^\.", "")))


def _global_context(meta: Meta) -> Layer:
    given = take(meta["ctor"], "inplanes", "planes", "pool", "fusions")
    fusions = tuple(name.removeprefix("channel_") for name in given["fusions"])
    module = GlobalContext(given["inplanes"], given["planes"], attended=given["pool"] == "att", fusions=fusions)
    return _inside("attention", module)


def _a1_conv(meta: Meta) -> Layer:
    given = take(meta["ctor"], "in_channels", "out_channels", *WINDOW)
    return Layer(A1Conv2d(given.pop("in_channels"), given.pop("out_channels"), **given))


def _evonorm_b0(meta: Meta) -> Layer:
    return _inside("bn1", EvoNormB0(take(meta["ctor"], "num_features", **RUNNING)["num_features"]))


def _evonorm_s0(meta: Meta) -> Layer:
    given = take(meta["ctor"], "num_features", "groups", "unbiased", eps=1e-5)
    return _inside("bn1", EvoNormS0(given["num_features"], given["groups"], correction=int(given["unbiased"])))


def _switchnorm(meta: Meta) -> Layer:
    return _inside("bn1", SwitchNorm2d(take(meta["ctor"], "num_features", **RUNNING)["num_features"]))


def _activation(name: str) -> Callable[[Meta], Layer]:
    return lambda meta: Layer(ACTIVATIONS[name]())


def activation_table(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Each activation of the table and its derivative, under the golden names."""
    found = {}
    for key in (key.removeprefix("out.") for key in arrays if key.startswith("out.")):
        x = torch.tensor(arrays["in.x"], dtype=torch.float64, requires_grad=True)
        name, _, beta = key.partition("_beta")
        module = Swish(float(beta)) if beta else ACTIVATIONS[ACTS.get(name, name)]()
        found[f"out.{key}"] = module.double()(x)
        (found[f"grad.x.{key}"],) = torch.autograd.grad(found[f"out.{key}"].sum(), x)
    return found


RESNET_LAYERS: dict[str, Callable[[Meta], Layer]] = {
    "models.imagenet.resnet_se.SELayer": _squeeze_excitation("channel", "fc.0"),
    "module.layers.se": _squeeze_excitation("channels", "se.1"),
    "models.imagenet.resnet_cbam.CBAM": _cbam,
    "mmdet.models.backbones.cbam.CBAM": _cbam,
    "models.imagenet.resnet_cbam.ChannelPool": _channel_pool,
    "models.imagenet.resnet_bam.BAM": _bam,
    "mmdet.models.backbones.bam.BAM": _bam,
    "models.imagenet.resnet_sge.SpatialGroupEnhance": _sge,
    "mmdet.models.backbones.resnet_sge.SpatialGroupEnhance": _sge,
    "models.imagenet.resnet_sk.Bottleneck": _sk_block,
    "mmdet.models.backbones.global_context.ContextBlock2d": _global_context,
    "models.layers.A1Conv2d": _a1_conv,
    "torchtoolbox.nn.norm.EvoNormB0 (same code as fallback in models/evo_norm.py)": _evonorm_b0,
    "NOT ORIGINAL: paper formula": _evonorm_s0,
    "torchtoolbox.nn.norm.SwitchNorm2d": _switchnorm,
    "models.mobilenet.HardSigmoid": _activation("hard-sigmoid"),
    "models.mobilenet.HardSwish": _activation("hard-swish"),
}
