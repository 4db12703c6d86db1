"""The networks of ours that the ancestors' names stand for."""

import re
from dataclasses import replace

from torch import nn

from models import build_model
from models.layers import Layers
from models.resnet import RESNETS, ResNetShape, basic, bottleneck, cifar
from scripts.golden.comparing import NotOursYet
from utils.config.model import ModelConfig

SIZE = r"resnet(?P<depth>\d+)(_w(?P<channels>\d+))?"
CARDINALITY = r"resnext(?P<depth>\d+)_(?P<groups>\d+)x(?P<group_width>\d+)d"
IMAGES = r"(?P<images>imagenet|cifar)"

# (name of a network, the settings it stands for); the groups of the name give its shape. Where several match, the
# first counts. PWSConv's gammas are those of its configuration files (seeds.md 2.3).
RULES = (
    (rf"pws__{IMAGES}_bn_{SIZE}", ModelConfig(block_order="relu-first")),
    (rf"pws__(?P<images>imagenet)_pws_{SIZE}", ModelConfig(norm="pws", pws_gamma=1e-4, pws_equiv="off")),
    (rf"pws__(?P<images>cifar)_pws_{SIZE}", ModelConfig(norm="pws", pws_gamma=1e-3, pws_equiv="off")),
    (rf"pws__{IMAGES}_pws_equiv_{SIZE}", ModelConfig(norm="pws", pws_gamma=1e-1, pws_equiv="on")),
    (rf"ws__l_{SIZE}", ModelConfig(norm="ws")),
    (rf"ws__(l_)?{CARDINALITY}", ModelConfig(norm="ws")),
    (r"ws__cifar_resnet(?P<cifar_depth>\d+)(?P<bottleneck>_bottleneck)?(_c\d+)?", ModelConfig()),
    (rf"pi__old_{SIZE}", ModelConfig()),
    (rf"pi__ws_{SIZE}", ModelConfig(norm="ws_bn")),
    (r"pi__sk_resnet(?P<depth>18|34)", ModelConfig()),  # plain networks under that name, seeds.md 4.2
    (rf"mz__{SIZE}(_PATCHED)?", ModelConfig()),
    (rf"mz__{CARDINALITY}", ModelConfig()),
    (r"mz__resnet(?P<depth>18|34|50)v2", ModelConfig(block_order="pre")),
)

# (name of a network, our name of it, what differs from our defaults); \1 is the first group of the name.
NAMED: tuple[tuple[str, str, dict[str, object]], ...] = (
    (r"mz__RegNetX(\d+(?:_[1-9])?)(?:_0)?GF(?:_PATCHED)?", r"regnet_x_\1gf", {}),
    (r"mz__RegNetX800MF", "regnet_x_800mf_modelzoo", {}),
    (r"mz__RegNetX(\d+)MF", r"regnet_x_\1mf", {}),
    (r"mz__RegNetY(\d+(?:_[1-9])?)(?:_0)?GF", r"regnet_y_\1gf_modelzoo", {}),
    (r"mz__RegNetY(\d+)MF", r"regnet_y_\1mf_modelzoo", {}),
    (r"ws__cifar_alexnet", "cifar_alexnet", {}),
    (r"ws__cifar_(vgg\d+(?:_bn)?)", r"cifar_\1", {}),
    (r"ws__cifar_densenet_bc_(\d+)_(\d+)", r"cifar_densenet\1_\2", {}),
    (r"pi__shufflenetv2_05x", "shufflenet_v2_x0_5", {}),
    (r"pi__shufflenetv2_1x", "shufflenet_v2_x1_0", {}),
    (r"pi__shufflenetv2_15x_class", "shufflenet_v2_x1_5", {}),
    (r"pi__shufflenetv2_20x_class", "shufflenet_v2_x2_0_pytorchinsight", {}),
    *(
        (rf"pi__{theirs}_shufflenetv2_{size}", f"shufflenet_v2_{ours}", settings)
        for theirs, settings in (
            ("se", {"attention": "se"}),
            ("gl4gbn", {"attention": "gl"}),
            ("bng2", {"norm": "bng2"}),
        )
        for size, ours in (("05x", "x0_5"), ("1x", "x1_0"))
    ),
)

# (name of a network, why it will not be ours).
MISTAKES = (
    (r"mz__resnet(101|152)v2", "built from post-activation blocks by mistake (seeds.md 5.2); ours is pre-activation"),
    (r"mz__resnext\d+v2_.*", "built from post-activation blocks by mistake (seeds.md 5.2)"),
)


def build_network(name: str, num_classes: int) -> nn.Module:
    """Our network for an ancestor's name, as `pws__cifar_pws_resnet18_w16`. NotOursYet if no rule knows the name."""
    for pattern, reason in MISTAKES:
        if re.fullmatch(pattern, name):
            raise NotOursYet(reason)
    if config := _named(name):
        return build_model(config, num_classes)
    for pattern, config in RULES:
        if match := re.fullmatch(pattern, name):
            return _shape(match.groupdict()).build(Layers(config), num_classes)
    raise NotOursYet("no network of ours is known under this name")


def our_network(name: str) -> str:
    """Our name of an ancestor's network, for interop's rows; "" for ResNets, whose files need none."""
    config = _named(name)
    return config.model if config else ""


def _named(name: str) -> ModelConfig | None:
    for pattern, ours, settings in NAMED:
        if match := re.fullmatch(pattern, name):
            return ModelConfig(model=match.expand(ours), **settings)
    return None


def _shape(groups: dict[str, str | None]) -> ResNetShape:
    """The row that the groups of a name describe."""
    if groups.get("cifar_depth"):
        return cifar(bottleneck if groups["bottleneck"] else basic, int(groups["cifar_depth"]))
    name = f"resnet{groups['depth']}"
    if name not in RESNETS:
        raise NotOursYet(f"there is no {name}")
    numbers = {key: int(groups[key]) for key in ("channels", "groups", "group_width") if groups.get(key)}
    return replace(RESNETS[name], stem="small" if groups.get("images") == "cifar" else "imagenet", **numbers)
