"""The sizes in the ancestors' README tables, as printed there, each with the network of ours that it is of.

Sources: seeds.md 2.5, 3.2, 3.3, 4.5, 5.2 to 5.5, 6 and 9; for the CIFAR networks also the README of
bearpaw/pytorch-classification, where Weight Standardization has those rows from. Where the code of an ancestor differs
from its README, seeds.md says what the code has.
"""

from dataclasses import dataclass

from scripts.ancestors.counting import (
    INSIGHT_ONE_POOLING,
    INSIGHT_RULE,
    PWSCONV_RULE,
    THOP_RULE,
    TRAINED_RULE,
    ZOO_RULE,
    Rule,
)
from utils.config import ModelConfig


@dataclass(frozen=True)
class Table:
    """One README's table: whose, how it counts, and for which images and classes."""

    ancestor: str
    rule: Rule
    size: int = 224
    classes: int = 1000


@dataclass(frozen=True)
class Row:
    """A row of a README: its name, the columns as printed ("" for none), and our network.

    `code_parameters`, `code_flops`: those of the ancestor's code, where they differ from what is printed; `rule` gives
    what is printed if the table's, which is the code's, does not. `note` says why.
    """

    name: str
    config: ModelConfig
    parameters: str
    flops: str = ""
    code_parameters: str = ""
    code_flops: str = ""
    rule: Rule | None = None
    note: str = ""


def _insight(depth: int, attention: str, parameters: str, flops: str, **differences: object) -> Row:
    name = f"{attention.upper()}-ResNet{depth}" if attention != "auto" else f"ResNet{depth}"
    config = ModelConfig(model=f"resnet{depth}", attention=attention)
    return Row(name, config, f"{parameters} M", f"{flops} G", **differences)


def _wn(name: str, model: str, *columns: tuple[str, str, str]) -> list[Row]:
    """columns: (norm, parameters, flops)."""
    return [
        Row(f"{name} {norm.upper()}", ModelConfig(model=model, norm=norm, stem="small"), f"{parameters} M", flops)
        for norm, parameters, flops in columns
    ]


POOLED_TWICE = {"rule": INSIGHT_ONE_POOLING, "note": "the README counts one pooling, the code both branches'"}
CODE_COUNTS = "the README's number is not the code's"

TABLES: tuple[tuple[Table, list[Row]], ...] = (
    (
        Table("PWSConv", PWSCONV_RULE),
        [
            Row("ResNet50 BN", ModelConfig(block_order="relu-first"), "23.508 M"),
            Row("ResNet50 PWS", ModelConfig(norm="pws"), "23.508 M"),
            Row("ResNet50 GN", ModelConfig(norm="gn", block_order="relu-first"), "23.508 M"),
        ],
    ),
    (
        Table("Weight Standardization", TRAINED_RULE),
        [
            Row("ResNet-18", ModelConfig(model="resnet18"), "11.69 M"),
            Row("ResNeXt-50 (32x4d)", ModelConfig(model="resnext50_32x4d"), "25.03 M"),
        ],
    ),
    (
        Table("Weight Standardization, CIFAR-10", TRAINED_RULE, size=32, classes=10),
        [
            Row("alexnet", ModelConfig(model="cifar_alexnet"), "2.47 M"),
            Row("vgg19_bn", ModelConfig(model="cifar_vgg19_bn"), "20.04 M"),
            Row("ResNet-110", ModelConfig(model="resnet110"), "1.70 M", code_parameters="1.73 M", note=CODE_COUNTS),
            Row(
                "PreResNet-110", ModelConfig(model="preresnet110"), "1.70 M", code_parameters="1.73 M", note=CODE_COUNTS
            ),
            Row("WRN-28-10", ModelConfig(model="wrn28_10"), "36.48 M"),
            Row("ResNeXt-29, 8x64", ModelConfig(model="resnext29_8x64d"), "34.43 M"),
            Row("ResNeXt-29, 16x64", ModelConfig(model="resnext29_16x64d"), "68.16 M"),
            Row("DenseNet-BC (L=100, k=12)", ModelConfig(model="cifar_densenet100_12"), "0.77 M"),
            Row("DenseNet-BC (L=190, k=40)", ModelConfig(model="cifar_densenet190_40"), "25.62 M"),
        ],
    ),
    (
        Table("PytorchInsight", INSIGHT_RULE),
        [
            Row("ShuffleNetV2 1x", ModelConfig(model="shufflenet_v2_x1_0"), "2.28 M", "0.151 G"),
            _insight(50, "auto", "25.56", "4.122"),
            _insight(50, "se", "28.09", "4.130"),
            _insight(50, "sk", "26.15", "4.185", code_flops="4.187 G", **POOLED_TWICE),
            _insight(50, "bam", "25.92", "4.205"),
            _insight(50, "cbam", "28.09", "4.139"),
            _insight(50, "sge", "25.56", "4.127"),
            _insight(101, "auto", "44.55", "7.849"),
            _insight(101, "se", "49.33", "7.863"),
            _insight(101, "sk", "45.68", "7.978", code_flops="7.980 G", **POOLED_TWICE),
            _insight(101, "bam", "44.91", "7.933"),
            _insight(101, "cbam", "49.33", "7.879"),
            _insight(101, "sge", "44.55", "7.858"),
        ],
    ),
    (
        Table("ModelZoo", ZOO_RULE),
        [
            Row("resnet50", ModelConfig(), "25.6 M", "4.1 G"),
            Row("resnet101", ModelConfig(model="resnet101"), "44.7 M", "7.8 G"),
            Row("resnet50v2", ModelConfig(model="resnet50v2"), "25.6 M", "4.1 G"),
            Row(
                "resnet101v2",
                ModelConfig(model="resnet101v2"),
                "44.6 M",
                "7.8 G",
                note="its code has post-activation blocks; ours is pre-activation",
            ),
            Row("resnext50_32x4d", ModelConfig(model="resnext50_32x4d"), "25.1 M", "4.2 G"),
            Row("RegNetX4_0GF", ModelConfig(model="regnet_x_4gf"), "22.2 M", "4.0 G"),
            Row(
                "RegNetY4_0GF",
                ModelConfig(model="regnet_y_4gf_modelzoo"),
                "22.1 M",
                "4.0 G",
                code_parameters="21.1 M",
                note=CODE_COUNTS,
            ),
            Row("RegNetY6_4GF", ModelConfig(model="regnet_y_6_4gf_modelzoo"), "31.2 M", "6.4 G"),
            Row("ResNeSt50", ModelConfig(model="resnest50"), "27.5 M", "4.1 G"),
            Row("MobileNetV1", ModelConfig(model="mobilenet_v1"), "4.3 M", "572.2 M"),
            Row("MobileNetV2", ModelConfig(model="mobilenet_v2"), "3.5 M", "305.3 M"),
            Row("MobileNetV3 Large", ModelConfig(model="mobilenet_v3_large_modelzoo"), "5.5 M", "219.5 M"),
            Row("MobileNetV3 Small", ModelConfig(model="mobilenet_v3_small_modelzoo"), "3.0 M", "57.8 M"),
            Row("GhostNet 1.3", ModelConfig(model="ghostnet", width=1.3), "7.4 M", "230.4 M"),
        ],
    ),
    (
        Table("WN, CIFAR-10", THOP_RULE, size=32, classes=10),
        [
            *_wn("ResNet18", "resnet18", ("bn", "11.17", "556.67 M"), ("in", "11.16", "555.44 M")),
            *_wn("ResNet34", "resnet34", ("bn", "21.28", "1.16 G"), ("in", "21.27", "1.16 G")),
            *_wn("ResNet50", "resnet50", ("bn", "23.52", "1.30 G"), ("in", "23.47", "1.30 G")),
            *_wn("ResNeXt50", "resnext50_32x4d", ("bn", "22.99", "1.35 G"), ("in", "22.92", "1.34 G")),
        ],
    ),
)
