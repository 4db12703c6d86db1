"""The networks of ours that the ancestors' names stand for."""

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from models import build_model
from models.layers import Layers
from models.resnet import RESNETS, ResNetShape, basic, bottleneck, cifar
from scripts.golden.comparing import NotOursYet
from scripts.golden.octaves import mistaken_octave
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
    *((rf"pi__{kind}_(resnet\d+)", r"\1", {"attention": kind}) for kind in ("se", "cbam", "bam", "sge")),
    (r"pi__sk_(resnet\d{2,3})(?<!18|34)", r"\1", {"attention": "sk"}),
    (r"ws__cifar_preresnet(\d+(?:_bottleneck)?)", r"preresnet\1", {}),
    (r"ws__cifar_wrn_(\d+)_(\d+)", r"wrn\1_\2", {}),
    (r"ws__cifar_(resnext29_\d+x64d)", r"\1", {}),
    (r"mz__evo_resnet18", "resnet26", {"norm": "evonorm_b0"}),  # of bottlenecks
    (r"mz__evo_resnet34", "resnet50", {"norm": "evonorm_b0"}),
    (r"mz__evo_resnet50_bnrelu", "resnet50v2", {}),
    (r"mz__evo_(resne(?:t|xt)\d+(?:_32x.d)?)", r"\1", {"norm": "evonorm_b0"}),
    (r"mz__resnest50", "resnest50", {}),
    (r"mz__LambdaResnet18", "lambda_resnet26", {}),  # of bottlenecks
    (r"mz__LambdaResnet34", "lambda_resnet50", {}),
    (r"mz__LambdaResnet(\d+)", r"lambda_resnet\1", {}),
    *(
        (rf"mz__oct_resnet_(resn.*)_a{str(alpha).replace('.', '')}", r"oct_\1", {"octave_alpha": alpha})
        for alpha in (0, 0.125, 0.25, 0.5, 0.75)
    ),
    (r"mz__MobileNetV([12])", r"mobilenet_v\1", {}),
    (r"mz__MobileNetV2_small_input_c10", "mobilenet_v2", {"stem": "small"}),
    (r"mz__MobileNetV3_(Large|Small)", r"mobilenet_v3_\1_modelzoo", {}),
    (r"mz__EfficientNet_(B[01])", r"efficientnet_\1", {}),
    (r"mz__EfficientNet_(B[2-7])", r"efficientnet_\1_modelzoo", {}),
    (r"mz__FairNas([ABC])", r"fairnas_\1", {}),
    (r"mz__Proxyless(GPU|CPU|Mobile)(?:_PATCHED)?", r"proxyless_\1", {}),
    (r"mz__GhostNet", "ghostnet", {"width": 1.3}),
    (r"mz__GhostNet_w10", "ghostnet", {}),
    (r"mz__GhostNet600", "ghostnet600", {}),
    (r"mz__GhostNetA", "ghostnet_a", {}),
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

# Networks without a head, whose golden logits are the means of what their stages give.
BACKBONES: tuple[tuple[str, str, dict[str, object]], ...] = (
    (r"pidet__detbackbone_ResNet_(\d+)", r"resnet\1", {}),
    *(
        (rf"pidet__detbackbone_ResNet{kind.upper()}_(\d+)", r"resnet\1", {"attention": kind})
        for kind in ("se", "sk", "cbam", "bam", "sge", "gc")
    ),
)


def build_network(name: str, num_classes: int) -> nn.Module:
    """Our network for an ancestor's name, as `pws__cifar_pws_resnet18_w16`. NotOursYet if no rule knows the name."""
    if model := mistaken_octave(name, num_classes):
        return model
    if config := _named(name, BACKBONES):
        model = build_model(config, 1, out_indices=(1, 2, 3, 4))
        model.register_forward_hook(_stage_means)
        return model
    if config := _named(name, NAMED):
        return build_model(config, num_classes)
    for pattern, config in RULES:
        if match := re.fullmatch(pattern, name):
            return _shape(match.groupdict()).build(Layers(config), num_classes)
    raise NotOursYet("no network of ours is known under this name")


def our_network(name: str) -> str:
    """Our name of an ancestor's network, for interop's rows; "" for ResNets, whose files need none."""
    config = _named(name, (*NAMED, *BACKBONES))
    return config.model if config else ""


def _stage_means(model: nn.Module, images: tuple[Tensor], outputs: Mapping[str, Tensor]) -> Tensor:
    """outputs: of all stages, (n, c, h, w) -> (n, all c)."""
    return torch.cat([output.mean((2, 3)) for output in outputs.values()], 1)


def _named(name: str, rows: tuple[tuple[str, str, dict[str, object]], ...]) -> ModelConfig | None:
    for pattern, ours, settings in rows:
        if match := re.fullmatch(pattern, name):
            return ModelConfig(model=match.expand(ours).lower(), **settings)
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
