"""MobileNets: V1 of depthwise and 1x1 convolutions, V2 of inverted residuals, V3 of those with squeeze-and-excitation.

Howard et al., arXiv 1704.04861; Sandler et al., arXiv 1801.04381; Howard et al., arXiv 1905.02244.
Parameters of V2 and V3 carry torchvision's names. --width multiplies all channels, but not V2's last when below 1. With
--norm ws_bn V1 is the one of the PytorchInsight ancestor's table.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from models.inverted_residual import (
    Classifier,
    Features,
    MBConv,
    MobileNetwork,
    Squeeze,
    make_divisible,
    use_tensorflow_batch_norm,
)
from models.layers import Layers
from models.layers.initialization import initialize


def separable(c_in: int, c_out: int, stride: int, layers: Layers) -> nn.Sequential:
    """V1's block: a depthwise 3x3 and a 1x1 convolution, both with norm and activation."""
    depthwise = layers.conv_norm_act(c_in, c_in, 3, stride=stride, groups=c_in, gain_from_data=True)
    return nn.Sequential(depthwise, layers.conv_norm_act(c_in, c_out, 1))


@dataclass(frozen=True)
class MobileNetV1Shape:
    """A row for V1: blocks as (c_out, stride)."""

    settings: ClassVar[tuple[str, ...]] = ("stem",)
    paper: ClassVar[str] = "arXiv 1704.04861"

    stem: int
    blocks: tuple[tuple[int, int], ...]

    def build(self, layers: Layers, num_classes: int) -> nn.Module:
        width = layers.width()
        features = Features(layers, make_divisible(self.stem * width), "relu")
        for c_out, stride in self.blocks:
            c_out = make_divisible(c_out * width)
            features.add(separable(features.channels, c_out, stride, layers), c_out, stride)
        if end := layers.end_norm_act(features.channels):
            features.modules.append(nn.Sequential(*end))
        model = MobileNetwork(features, Classifier(), num_classes)
        initialize(model, "small-head")
        return model


@dataclass(frozen=True)
class MobileNetV2Shape:
    """A row for networks like V2, all in ReLU6: blocks as (c_mid over c_in, c_out, kernel size, stride)."""

    settings: ClassVar[tuple[str, ...]] = ("stem",)

    stem: int
    blocks: tuple[tuple[int, int, int, int], ...]
    last: int
    dropout: float = 0.0
    paper: str = "arXiv 1801.04381"

    def build(self, layers: Layers, num_classes: int) -> nn.Module:
        width = layers.width()
        features = Features(layers, make_divisible(self.stem * width), "relu6")
        for expansion, c_out, kernel_size, stride in self.blocks:
            c_in, c_out = features.channels, make_divisible(c_out * width)
            shape = MBConv(c_in, c_in * expansion, c_out, kernel_size, stride)
            features.add(shape.block(layers, listed=True), c_out, stride)
        features.finish(make_divisible(self.last * max(1.0, width)), "relu6")
        model = MobileNetwork(features, Classifier(self.dropout), num_classes)
        initialize(model, "small-head")
        return model


@dataclass(frozen=True)
class MobileNetV3Shape:
    """A row for V3: blocks as (c_mid, c_out, kernel size, stride, squeeze-and-excitation, activation).

    The last convolution has as many channels as the last block in the middle. `tensorflow`: batch norm's constants.
    """

    settings: ClassVar[tuple[str, ...]] = ("stem",)
    paper: ClassVar[str] = "arXiv 1905.02244"

    blocks: tuple[tuple[int, int, int, int, bool, str], ...]
    classifier: Classifier
    stem: int = 16
    tensorflow: bool = True

    def build(self, layers: Layers, num_classes: int) -> nn.Module:
        width = layers.width()
        features = Features(layers, make_divisible(self.stem * width), "hard-swish")
        for c_mid, c_out, kernel_size, stride, squeezed, act in self.blocks:
            c_mid, c_out = (make_divisible(channels * width) for channels in (c_mid, c_out))
            squeeze = Squeeze(make_divisible(c_mid // 4), gate="hard-sigmoid") if squeezed else None
            shape = MBConv(features.channels, c_mid, c_out, kernel_size, stride, act, squeeze)
            features.add(shape.block(layers), c_out, stride)
        features.finish(6 * features.channels, "hard-swish")
        classifier = replace(self.classifier, hidden=make_divisible(self.classifier.hidden * width))
        model = MobileNetwork(features, classifier, num_classes)
        initialize(model, "small-head")
        if self.tensorflow:
            use_tensorflow_batch_norm(model)
        return model


V1 = MobileNetV1Shape(
    stem=32,
    blocks=((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)),
)

V2_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
V2 = MobileNetV2Shape(
    stem=32,
    blocks=tuple((t, c, 3, 1 if i else stride) for t, c, blocks, stride in V2_STAGES for i in range(blocks)),
    last=1280,
    dropout=0.2,
)

R, H = "relu", "hard-swish"
V3_LARGE = MobileNetV3Shape(
    (
        (16, 16, 3, 1, False, R),
        (64, 24, 3, 2, False, R),
        (72, 24, 3, 1, False, R),
        (72, 40, 5, 2, True, R),
        (120, 40, 5, 1, True, R),
        (120, 40, 5, 1, True, R),
        (240, 80, 3, 2, False, H),
        (200, 80, 3, 1, False, H),
        (184, 80, 3, 1, False, H),
        (184, 80, 3, 1, False, H),
        (480, 112, 3, 1, True, H),
        (672, 112, 3, 1, True, H),
        (672, 160, 5, 2, True, H),
        (960, 160, 5, 1, True, H),
        (960, 160, 5, 1, True, H),
    ),
    Classifier(0.2, hidden=1280),
)
V3_SMALL = MobileNetV3Shape(
    (
        (16, 16, 3, 2, True, R),
        (72, 24, 3, 2, False, R),
        (88, 24, 3, 1, False, R),
        (96, 40, 5, 2, True, H),
        (240, 40, 5, 1, True, H),
        (240, 40, 5, 1, True, H),
        (120, 48, 5, 1, True, H),
        (144, 48, 5, 1, True, H),
        (288, 96, 5, 2, True, H),
        (576, 96, 5, 1, True, H),
        (576, 96, 5, 1, True, H),
    ),
    Classifier(0.2, hidden=1024),
)
# The ModelZoo ancestor's: no bias in the hidden layer, 1280 channels in it in small too, torch's batch norm constants.
ZOO_CLASSIFIER = Classifier(0.2, hidden=1280, bias=False)

MOBILENETS = {
    "mobilenet_v1": V1,
    "mobilenet_v2": V2,
    "mobilenet_v3_large": V3_LARGE,
    "mobilenet_v3_small": V3_SMALL,
    "mobilenet_v3_large_modelzoo": replace(V3_LARGE, classifier=ZOO_CLASSIFIER, tensorflow=False),
    "mobilenet_v3_small_modelzoo": replace(V3_SMALL, classifier=ZOO_CLASSIFIER, tensorflow=False),
}
