"""Golden layers of ResNeSt, octave and lambda networks, as what models.layers has of them."""

from collections.abc import Callable

from torch import Tensor, nn

from models.interop.lambdanet import LAMBDANET
from models.interop.octave import FREQUENCIES
from models.interop.resnest import RESNEST
from models.layers import Layers
from models.layers.lambda_layer import GlobalPositions, LambdaLayer, LocalPositions
from models.layers.octave import Octave, OctaveConv, OctaveLayers, divided
from models.layers.split_attention import SplitAttention, SplitAttentionConv, Splits
from models.octave import OctaveShape, octave_bottleneck
from models.resnet import ResNetShape, bottleneck, stage
from scripts.golden.layer import WINDOW, Layer, Meta, Outputs, take
from utils.config.model import ModelConfig

SPLIT_REDUCTION, SPLIT_LEAST = 4, 32


def _layers(**settings: object) -> Layers:
    return Layers(ModelConfig(**settings))


def _split_attention(meta: Meta) -> Layer:
    given = take(meta["ctor"], "channels", "inter_channels", "groups", "radix")
    splits = Splits(given["inter_channels"], given["radix"])
    return Layer(SplitAttention(given["channels"], given["groups"], splits, _layers()))


def _split_attention_conv(meta: Meta) -> Layer:
    given = take(
        meta["ctor"], "in_channels", "channels", "stride", "groups", "radix", kernel_size=3, padding=1, bias=False
    )
    c_in, radix = given["in_channels"], given["radix"]
    splits = Splits(max(c_in * radix // SPLIT_REDUCTION, SPLIT_LEAST), radix)
    conv = SplitAttentionConv(c_in, given["channels"], given["stride"], given["groups"], splits, _layers())
    return Layer(conv, names=((r"^bn\.", "bn0."), *RESNEST))


def _lambda_layer(meta: Meta) -> Layer:
    given = take(meta["ctor"], "dim", "dim_k", "heads", "n", "r", dim_u=1)
    keys = given["dim_k"]
    positions = LocalPositions(keys, given["r"]) if "r" in given else GlobalPositions(keys, given["n"])
    layer = LambdaLayer(given["dim"], given["dim"], given["heads"], keys, positions, _layers())
    return Layer(layer, names=LAMBDANET)


def _lambda_block(meta: Meta) -> Layer:
    given = take(meta["ctor"], "inplanes", "planes", "stride", "downsample", "note")
    layers = _layers(attention="lambda")
    blocks = stage(ResNetShape(bottleneck, ()), layers, given["inplanes"], given["planes"], given["stride"], 1)
    return Layer(blocks[0], names=LAMBDANET)


def _call(module: nn.Module, high: Tensor, low: Tensor | None = None) -> Outputs:
    y = module(high if low is None else Octave(high, low))
    return {"y_h": y.high, "y_l": y.low} if isinstance(y, Octave) else {"y": y, "y_h": y}


def _octave_conv(first: bool = False, last: bool = False) -> Callable[[Meta], Layer]:
    """A builder of octave convolutions; `first` has no low inputs, `last` no low outputs."""

    def build(meta: Meta) -> Layer:
        given = take(meta["ctor"], "in_channels", "channels", "alpha", "alpha_in", "alpha_out", "stride", *WINDOW)
        alpha_in, alpha_out = (given.pop(name, given.get("alpha")) for name in ("alpha_in", "alpha_out"))
        given.pop("alpha", None)
        c_in = divided(given.pop("in_channels"), 0 if first else alpha_in)
        c_out = divided(given.pop("channels"), 0 if last else alpha_out)
        return Layer(OctaveConv(c_in, c_out, given.pop("kernel_size"), _layers(), **given), _call, FREQUENCIES)

    return build


def _octave_block(last: bool) -> Callable[[Meta], Layer]:
    """A builder of single blocks of an octave ResNet, or of its last stage."""

    def build(meta: Meta) -> Layer:
        given = take(meta["ctor"], "inplanes", "planes", "stride", "alpha")
        depths = (1,) if last else (1, 1)
        shape = OctaveShape(octave_bottleneck, depths, channels=given["planes"], alpha=given["alpha"], re=True)
        c_in = divided(given["inplanes"], shape.alpha)
        blocks = stage(shape, OctaveLayers(_layers()), c_in, given["planes"], given["stride"], 1)
        if last:
            blocks[0].bn3.eps = shape.alpha  # the ancestor's mistake, which the golden numbers have (seeds.md 5.4)
        return Layer(blocks[0], _call, FREQUENCIES)

    return build


ATTENTION_RESNET_LAYERS: dict[str, Callable[[Meta], Layer]] = {
    "models.resnest.SplitAttention2d": _split_attention,
    "models.resnest.SplAtConv2d": _split_attention_conv,
    "models.lamdba_net.LambdaLayer": _lambda_layer,
    "models.lamdba_net.Bottleneck": _lambda_block,
    "module.octconv.OctConv": _octave_conv(),
    "module.octconv.OctConvFirst": _octave_conv(first=True),
    "module.octconv.OctConvLast": _octave_conv(last=True),
    "module.octconv.OctaveConv": _octave_conv(),
    "models.oct_resnet_re.OctBottleneck": _octave_block(last=False),
    "models.oct_resnet_re.OctBottleneck_Last": _octave_block(last=True),
}
