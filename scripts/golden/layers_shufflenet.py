"""Golden layers of the PytorchInsight ancestor's ShuffleNets: its classes -> what of ours stands for them."""

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from models.interop.families import rows_for
from models.layers import Layers
from models.shufflenet import SplitUnit, shuffle
from scripts.golden.layer import Layer, Meta, take
from utils.config.model import ModelConfig


def _unit(**settings: str) -> Callable[[Meta], Layer]:
    """A unit of the network with these settings of --norm and --attention."""

    def build(meta: Meta) -> Layer:
        given = take(meta["ctor"], "inp", "oup", "stride", "benchmodel")
        module = SplitUnit(given["inp"], given["oup"], given["stride"], Layers(ModelConfig(**settings)))
        return Layer(module, names=((r"^", "features.0."), *rows_for("shufflenet_v2_x1_0"), (r"^stage2\.0\.", "")))

    return build


def _gate(meta: Meta) -> Layer:
    given = take(meta["ctor"], "c", g=4)
    gate = Layers(ModelConfig(attention="gl")).attention(given["c"])
    return Layer(nn.Sequential(OrderedDict(attention=gate)), names=((r"^(?!x$)", "attention."),))


def _paired_batch_norm(meta: Meta) -> Layer:
    given = take(meta["ctor"], "num_features", g=2)
    norm = Layers(ModelConfig(norm="bng2")).norm(given["num_features"])
    stem = nn.Sequential(nn.Identity(), norm)
    return Layer(nn.Sequential(OrderedDict(conv1=stem)), names=((r"^(?!x$)", "conv1.1."),))


def _shuffle(meta: Meta) -> Layer:
    groups = take(meta["ctor"], "groups")["groups"]
    return Layer(nn.Identity(), call=lambda module, x: {"y": shuffle(x, groups)})


SHUFFLENET_LAYERS: dict[str, Callable[[Meta], Layer]] = {
    "models.imagenet.shufflenetv2.InvertedResidual": _unit(),
    "models.imagenet.shufflenetv2_gl4gbn.InvertedResidual": _unit(attention="gl"),
    "models.imagenet.shufflenetv2_gl4gbn.GL": _gate,
    "models.imagenet.shufflenetv2_bng2.GBatchNorm2d": _paired_batch_norm,
    "models.imagenet.shufflenetv2.channel_shuffle": _shuffle,
}
