"""Golden layers: forward, gradients and changed buffers of `layers/*.npz`."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.interop import load_weights, our_tensor
from models.layers import Layers
from models.layers.convolution import PWSConv2d, PWSRule, WSConv2d
from models.layers.gain import set_data_gains, wants_data_gains
from models.resnet import EXPANSION, ResNetShape, basic, bottleneck, stage
from scripts.golden.comparing import Check, NotOursYet, elementwise
from scripts.golden.layer import WINDOW, Layer, Meta, Outputs, take
from scripts.golden.layers_attention_resnets import ATTENTION_RESNET_LAYERS
from scripts.golden.layers_augmentation import cutout_outputs
from scripts.golden.layers_dropping import drop_block_outputs, drop_connect_outputs
from scripts.golden.layers_loss import LOSS_TABLES, ROUNDED_TARGETS
from scripts.golden.layers_mobile import MOBILE_LAYERS
from scripts.golden.layers_optim import OPTIM_TABLES, check_groups
from scripts.golden.layers_resnet import RESNET_LAYERS, activation_table
from scripts.golden.layers_schedules import SCHEDULE_TABLES
from scripts.golden.layers_shufflenet import SHUFFLENET_LAYERS
from scripts.golden.neighbours import neighbour_table
from utils.config.model import ModelConfig


def _pws_conv(meta: Meta) -> Layer:
    own = ("in_channels", "out_channels", "gamma", "equiv", "mode", "initalpha")
    given = {"kernel_size": 3, **take(meta["ctor"], *own, *WINDOW, activation=None)}
    fan = given.get("mode", "fan_out").removeprefix("fan_")
    rule = PWSRule(given.get("gamma", 1e-5), given.get("equiv", False), fan)
    options = {name: given[name] for name in WINDOW if name in given}
    conv = PWSConv2d(given["in_channels"], given["out_channels"], rule=rule, **options)
    conv.gain_from_data = given.get("initalpha", False)
    return Layer(conv)


def _ws_conv(meta: Meta) -> Layer:
    given = take(meta["ctor"], "in_channels", "out_channels", *WINDOW)
    return Layer(WSConv2d(given.pop("in_channels"), given.pop("out_channels"), **given))


def _group_norm(meta: Meta) -> Layer:
    given = take(meta["ctor"], "num_features")
    return Layer(Layers(ModelConfig(norm="gn")).norm(given["num_features"]))


def _chosen(conv: Mapping[str, object], norm: Mapping[str, object] | None) -> ModelConfig:
    """The configuration that PWSConv's `conv_cfg` and `norm_cfg` amount to."""
    if conv["type"] == "pws":
        return ModelConfig(
            norm="pws",
            pws_gamma=conv.get("gamma", 1e-5),
            pws_equiv="on" if conv.get("equiv", False) else "off",
            pws_fan=conv.get("mode", "fan_out").removeprefix("fan_"),
            pws_gain="data" if conv.get("initalpha", False) else "one",
        )
    if norm is None:
        return ModelConfig(norm="none")
    names = {"BN": "bn", "SyncBN": "syncbn", "GN": "gn"}
    return ModelConfig(norm=names[norm["type"]], norm_groups=norm.get("num_groups", 32))


def _relu_neck(meta: Meta) -> Layer:
    given = take(meta["ctor"], "in_channels", "norm_cfg", avgpool=False)
    config = ModelConfig(norm="pws" if given.get("norm_cfg") else "none", block_order="relu-first")
    if given.get("norm_cfg", None) not in (None, {"type": "GN", "num_groups": 1, "requires_grad": True}):
        raise NotOursYet("a neck of ours has GroupNorm(1) or nothing")
    network = _one_block_network(given["in_channels"], config, num_classes=1)
    return Layer(nn.Sequential(network.bn_last, network.act_last), names=((r"^norm\.", "0."),))


def _one_block_network(channels: int, config: ModelConfig, num_classes: int) -> nn.Module:
    """A network whose head takes `channels` channels."""
    return ResNetShape(basic, (1,), channels=channels).build(Layers(config), num_classes)


def _classifier(meta: Meta) -> Layer:
    given = take(meta["ctor"], "in_channels", "num_classes")

    def call(network: nn.Module, x: Tensor) -> Outputs:
        logits = network.classify(x)
        labels = torch.arange(len(x)) % given["num_classes"]
        return {"logits": logits, "loss_ce": F.cross_entropy(logits, labels)}

    network = _one_block_network(given["in_channels"], ModelConfig(), given["num_classes"])
    return Layer(network, call, names=((r"^h\.", ""),), whole=False)


def _residual_stage(meta: Meta) -> Layer:
    names = ("block", "num_blocks", "in_channels", "out_channels", "stride", "conv_cfg", "norm_cfg")
    given = take(meta["ctor"], *names, style="pytorch", avg_down=False)
    block, expansion = {"BasicBlock": (basic, 1), "Bottleneck": (bottleneck, EXPANSION)}[given["block"]]
    config = _chosen(given["conv_cfg"], given.get("norm_cfg"))
    shape = ResNetShape(block, (), order="relu-first")
    planes = given["out_channels"] // expansion
    return Layer(stage(shape, Layers(config), given["in_channels"], planes, given["stride"], given["num_blocks"]))


def _block(shape: ResNetShape, norm: str) -> Callable[[Meta], Layer]:
    """A builder of single blocks, which are stages of one."""

    def build(meta: Meta) -> Layer:
        options = ("inplanes", "planes", "stride", "downsample", "cardinality", "baseWidth")
        given = take(meta["ctor"], *options, activation="relu", drop_block=False)
        wide = replace(shape, groups=given.get("cardinality", 1), group_width=given.get("baseWidth", 64))
        blocks = stage(wide, Layers(ModelConfig(norm=norm)), given["inplanes"], given["planes"], given["stride"], 1)
        return Layer(blocks[0], names=((r"^downsample\.weight$", "downsample.0.weight"),))

    return build


LAYERS: dict[str, Callable[[Meta], Layer]] = {
    "modules.utils.pws_layer.PWSConv": _pws_conv,
    "modules.neck.relu_neck.ReluNeck": _relu_neck,
    "modules.head.cls_head.LinearClsHead": _classifier,
    "modules.backbone.resnet.ResLayer": _residual_stage,
    "models.layers.Conv2d": _ws_conv,
    "models.layers.BatchNorm2d": _group_norm,
    "models.imagenet.resnet.BasicBlock": _block(ResNetShape(basic, ()), "ws"),
    "models.imagenet.resnet.Bottleneck": _block(ResNetShape(bottleneck, ()), "ws"),
    "models.imagenet.resnext.Bottleneck": _block(ResNetShape(bottleneck, ()), "ws"),
    "models.resnet.BasicBlock": _block(ResNetShape(basic, ()), "bn"),
    "models.resnet.Bottleneck": _block(ResNetShape(bottleneck, ()), "bn"),
    "models.resnet.BasicBlockV2": _block(ResNetShape(basic, (), order="pre"), "bn"),
    "models.resnet.BottleneckV2": _block(ResNetShape(bottleneck, (), order="pre"), "bn"),
    **RESNET_LAYERS,
    **MOBILE_LAYERS,
    **SHUFFLENET_LAYERS,
    **ATTENTION_RESNET_LAYERS,
}

# Files that hold one function after the other instead of a layer.
TABLES: dict[str, Callable[[Meta, Mapping[str, np.ndarray]], Outputs]] = {
    "torchtoolbox.nn.Activation": lambda meta, arrays: activation_table(arrays),
    "modules.utils.knn.KNN": lambda meta, arrays: neighbour_table(meta["topk"], arrays),
    "imagenet_mobile.cutout_data": cutout_outputs,
    "module.dropblock.DropBlock2d": drop_block_outputs,
    "models.efficientnet.DropConnect": drop_connect_outputs,
    **LOSS_TABLES,
    **OPTIM_TABLES,
    **SCHEDULE_TABLES,
}

# Class -> pattern of arrays that were rounded. torch's own hard sigmoid, which ours is, multiplies gradients by 1/6 in
# float32; this ancestor wrote it out.
ROUNDED_ARRAYS = {"models.mobilenet.HardSigmoid": "grad.x", **ROUNDED_TARGETS}

# What a file's `aux.<name>` holds.
EXTRAS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "kernel": lambda module, x: module.kernel(),
    "second_forward_y": lambda module, x: module(x),
    "eval_y": lambda module, x: module.eval()(x),
}


def check_layer(path: Path) -> list[Check]:
    """Every array of one golden layer. NotOursYet where nothing of ours is that layer."""
    if path.suffix != ".npz":
        return check_groups(path)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "meta"}
        meta = json.loads(str(file["meta"]))
    found = TABLES[meta["cls"]](meta, arrays) if meta["cls"] in TABLES else _answers(meta, arrays)
    unknown = sorted(name for name in arrays if name not in found and name.split(".")[0] in ("out", "grad", "after"))
    if unknown:
        raise NotOursYet(f"nothing of ours computes {', '.join(unknown)}")
    return [elementwise(name, found[name], arrays[name], _rounded(name, meta)) for name in arrays if name in found]


def _answers(meta: Meta, arrays: Mapping[str, np.ndarray]) -> Outputs:
    """What our layer for the golden one makes of its inputs, under the golden names."""
    if meta["cls"] not in LAYERS:
        raise NotOursYet(f"nothing of ours is a {meta['cls']}")
    layer = LAYERS[meta["cls"]](meta)
    layer.module.double().train(meta["mode"] == "train")
    _load(layer, _group(arrays, "param"))
    return _computed(layer, arrays)


def _group(arrays: Mapping[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """The arrays called `<kind>.<name>`, by name."""
    return {name.removeprefix(f"{kind}."): array for name, array in arrays.items() if name.startswith(f"{kind}.")}


def _load(layer: Layer, parameters: Mapping[str, np.ndarray]) -> None:
    named = {layer.our_name(name): torch.tensor(value) for name, value in parameters.items()}
    state = {name: our_tensor(name, value) for name, value in named.items()}
    if layer.whole:
        load_weights(layer.module, state)
    else:
        layer.module.load_state_dict({**layer.module.state_dict(), **state})


def _computed(layer: Layer, arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Outputs, gradients and changed state of a loaded layer, under the golden names."""
    module, given = layer.module, _group(arrays, "in")
    inputs = {name: torch.tensor(array, dtype=torch.float64, requires_grad=True) for name, array in given.items()}
    x = next(iter(inputs.values()))
    if wants_data_gains(module):
        set_data_gains(module, x)
    outputs = layer.call(module, *inputs.values())
    loss = sum((outputs[name] * torch.tensor(factor)).sum() for name, factor in _group(arrays, "gradout").items())
    loss.backward()
    gradients = {name: leaf.grad for name, leaf in [*inputs.items(), *module.named_parameters()]}
    state = {name: value.clone() for name, value in module.state_dict().items()}
    found = {f"out.{name}": value for name, value in {**outputs, "loss": loss}.items()}
    for kind, ours in (("grad", gradients), ("after", state)):
        named = {name: name if name in inputs else layer.our_name(name) for name in _group(arrays, kind)}
        found |= {f"{kind}.{name}": ours[our] for name, our in named.items()}
    return found | {f"aux.{name}": EXTRAS[name](module, x) for name in _group(arrays, "aux") if name in EXTRAS}


def _rounded(name: str, meta: Meta) -> bool:
    """Whether the notes say that this array was rounded: "grad.* arrays rounded to float32 for size"; or ours is."""
    if fnmatch(name, ROUNDED_ARRAYS.get(meta["cls"], "")):
        return True
    notes = [note for note in meta.get("storage_notes", []) if "rounded" in note]
    return any(fnmatch(name, note.split()[0]) or "*" not in note.split()[0] for note in notes)
