"""Golden layers of ModelZoo.pytorch's mobile networks and RegNets: its classes -> what of ours stands for them."""

from collections.abc import Callable

from torch import Tensor, nn

from models.ghostnet import GhostModule, ghost_bottleneck
from models.interop.families import rows_for
from models.inverted_residual import MBConv, Squeeze, make_divisible
from models.layers import Layers
from models.layers.attention import SqueezeExcitation
from models.mobilenet import separable
from models.regnet import Block, RegNetShape
from scripts.golden.layer import Layer, Meta, take
from utils.config.model import ModelConfig


class ExactHardSigmoid(nn.Module):
    """min(max(x + 3, 0), 6) / 6 in steps, as the ancestor's MobileNet has it (its GhostNet has torch's).

    The backward of torch's Hardsigmoid multiplies by 1 / 6 rounded to float32, in float64 too: 3e-8 beside this.
    """

    def forward(self, x: Tensor) -> Tensor:
        return (x + 3).clamp(0, 6) / 6


BLOCK = ("in_c", "out_c", "kernel_size", "stride")
ACTIVATIONS = {"relu": "relu", "h_swish": "hard-swish"}


def _layers() -> Layers:
    return Layers(ModelConfig())


def _of(network: str, theirs: str, ours: str, module: nn.Module) -> Layer:
    """`module`, whose parameters are called as in the block `theirs` of a file of `network`, which is `ours`."""
    return Layer(module, names=((r"^", theirs), *rows_for(network), (rf"^{ours}", "")), network=network)


def _exact(layer: Layer) -> Layer:
    for module in list(layer.module.modules()):
        if isinstance(module, SqueezeExcitation):
            module.gate = ExactHardSigmoid()
    return layer


def _efficientnet_block(meta: Meta) -> Layer:
    given = take(meta["ctor"], *BLOCK, "expand", "se_ratio", dc_ratio=0)
    c_in = given["in_c"]
    squeeze = Squeeze(int(c_in * given["se_ratio"]), act="swish")
    shape = MBConv(c_in, c_in * given["expand"], *(given[name] for name in BLOCK[1:]), "swish", squeeze)
    return _of("efficientnet_b0", "blocks.1.0.", "features.2.0.", shape.block(_layers()))


def _fairnas_block(meta: Meta) -> Layer:
    given = take(meta["ctor"], *BLOCK, "expansion")
    c_in = given["in_c"]
    shape = MBConv(c_in, c_in * given["expansion"], *(given[name] for name in BLOCK[1:]))
    return _of("fairnas_a", "mb_blocks.0.", "features.2.", shape.block(_layers(), listed=True))


def _mobilenet_block(meta: Meta) -> Layer:
    options = ("expansion", "activation", "se", "skip", "linear", "first_conv")
    given = take(meta["ctor"], *BLOCK, *options)
    c_in, c_out = given["in_c"], given["out_c"]
    if not given.get("linear", True):
        return _of("mobilenet_v1", "mb_block.0.", "features.1.", separable(c_in, c_out, given["stride"], _layers()))
    c_mid, squeezed = round(c_in * given["expansion"]), given.get("se", False)
    squeeze = Squeeze(make_divisible(c_mid // 4), gate="hard-sigmoid") if squeezed else None
    act = ACTIVATIONS[given["activation"]] if "activation" in given else "relu6"
    shape = MBConv(c_in, c_mid, c_out, given["kernel_size"], given["stride"], act, squeeze)
    theirs, ours = ("mb_block.3.", "features.4.") if squeezed else ("mb_block.1.", "features.2.")
    return _exact(_of("mobilenet_v3_large", theirs, ours, shape.block(_layers())))


def _ghost_block(meta: Meta) -> Layer:
    given = take(meta["ctor"], "in_c", "mid_c", "out_c", "dw_kernel_size", "stride", "se_ratio")
    squeeze = Squeeze(make_divisible(given["mid_c"] * given["se_ratio"], 4), gate="hard-sigmoid")
    numbers = (given[name] for name in ("in_c", "mid_c", "out_c", "dw_kernel_size", "stride"))
    return _of("ghostnet", "stage.0.", "features.1.", ghost_bottleneck(MBConv(*numbers, "relu", squeeze), _layers()))


def _ghost_module(meta: Meta) -> Layer:
    given = take(meta["ctor"], "in_c", "out_c", kernel_size=1, dw_size=3, ratio=2)
    module = GhostModule(given["in_c"], given["out_c"], _layers(), "relu")
    return _of("ghostnet", "stage.0.ghost1.", r"features\.1\.(block\.)?ghost1\.", module)


def _squeeze_excitation(channels: int, hidden: int, first: str, act: str = "relu", gate: str = "hard-sigmoid") -> Layer:
    """`first`: their name of the first layer; the second is two modules further."""
    path, _, at = first.rpartition(".")
    names = ((rf"^{path}\.{at}\.", "fc1."), (rf"^{path}\.{int(at) + 2}\.", "fc2."))
    return Layer(SqueezeExcitation(channels, hidden, act, gate), names=names)


def _efficientnet_squeeze(meta: Meta) -> Layer:
    given = take(meta["ctor"], "in_", "squeeze_ch")
    return _squeeze_excitation(given["in_"], given["squeeze_ch"], "se.1", "swish", "sigmoid")


def _mobilenet_squeeze(meta: Meta) -> Layer:
    given = take(meta["ctor"], "channels", "reduction")
    hidden = make_divisible(given["channels"] // given["reduction"])
    return _exact(_squeeze_excitation(given["channels"], hidden, "out.0"))


def _ghost_squeeze(meta: Meta) -> Layer:
    given = take(meta["ctor"], "in_c", "reduction_ratio")
    return _squeeze_excitation(given["in_c"], make_divisible(given["in_c"] * given["reduction_ratio"], 4), "block.1")


def _regnet_squeeze(meta: Meta) -> Layer:
    given = take(meta["ctor"], "in_c", "reduction_ratio")
    return _squeeze_excitation(given["in_c"], int(given["in_c"] * given["reduction_ratio"]), "block.1", gate="sigmoid")


def _regnet_block(meta: Meta) -> Layer:
    names = ("in_c", "out_c", "stride", "group_width", "patched")
    given = take(meta["ctor"], *names, bottleneck_ratio=1, reduction_ratio=0)
    shape = RegNetShape(1, given["out_c"], 1.0, 2.0, given["group_width"])
    block = Block(shape, given["in_c"], given["out_c"], given["stride"], _layers())
    return _of("regnet_x_200mf", "stage.0.0.", "trunk_output.block1.block1-0.", block)


MOBILE_LAYERS: dict[str, Callable[[Meta], Layer]] = {
    "models.efficientnet.MBConv": _efficientnet_block,
    "models.efficientnet.SEModule": _efficientnet_squeeze,
    "models.fairnet.InvertedResidual": _fairnas_block,
    "models.mobilenet.MobileNetBottleneck": _mobilenet_block,
    "models.mobilenet.SE_Module": _mobilenet_squeeze,
    "models.ghostnet.GhostBottleneck": _ghost_block,
    "models.ghostnet.GhostModule": _ghost_module,
    "models.ghostnet.SE": _ghost_squeeze,
    "models.regnet.Stage": _regnet_block,
    "models.regnet.SE": _regnet_squeeze,
}
