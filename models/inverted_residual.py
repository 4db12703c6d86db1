"""Inverted residuals, and what the mobile networks that are chains of them have in common.

Sandler et al., arXiv 1801.04381; with squeeze-and-excitation, Tan et al., arXiv 1807.11626. Such a network is a stem,
blocks, a last 1x1 convolution, the mean over positions and a classifier; the files of the families list the blocks.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from models.layers import Layers
from models.layers.attention import SqueezeExcitation


@dataclass(frozen=True)
class Squeeze:
    """The squeeze-and-excitation of a block, whose activations are its own whatever --act is."""

    hidden: int
    act: str = "relu"
    gate: str = "sigmoid"

    def layer(self, channels: int) -> SqueezeExcitation:
        return SqueezeExcitation(channels, self.hidden, self.act, self.gate)


@dataclass(frozen=True)
class MBConv:
    """An inverted residual: 1x1 to `c_mid` channels, unless they are as many already; depthwise; 1x1 to `c_out`.

    The last convolution has no activation after it. `squeeze` stands before it, and so does --attention, in the place
    of `squeeze` where there is one.
    """

    c_in: int
    c_mid: int
    c_out: int
    kernel_size: int = 3
    stride: int = 1
    act: str = "relu6"
    squeeze: Squeeze | None = None

    @property
    def keeps_shape(self) -> bool:
        return self.stride == 1 and self.c_in == self.c_out

    def attention(self, layers: Layers) -> nn.Module | None:
        """What weighs the channels in the middle: the user's choice, or the block's own, or nothing."""
        return layers.branch_attention(self.c_mid) or (self.squeeze and self.squeeze.layer(self.c_mid))

    def block(self, layers: Layers, *, listed: bool = False) -> "InvertedResidual":
        """The block; `listed` gives its parameters torchvision's names for MobileNetV2, not those for its others."""
        steps = []
        if self.c_mid != self.c_in:
            steps.append(layers.conv_norm_act(self.c_in, self.c_mid, 1, self.act, gain_from_data=True))
        window = {"stride": self.stride, "groups": self.c_mid, "gain_from_data": not steps}
        steps.append(layers.conv_norm_act(self.c_mid, self.c_mid, self.kernel_size, self.act, **window))
        if attention := self.attention(layers):
            steps.append(attention)
        project = layers.conv_norm_act(self.c_mid, self.c_out, 1, None, last=self.keeps_shape)
        branch = nn.Sequential(*steps, *(project if listed else [project]))
        shortcut = nn.Identity() if self.keeps_shape else None
        return InvertedResidual(branch, shortcut, self.drop_path(layers), name="conv" if listed else "block")

    def drop_path(self, layers: Layers) -> nn.Module | None:
        """Stochastic depth, for blocks with a shortcut; all are counted, from 0, as EfficientNet's authors do."""
        return layers.drop_path(has_place=self.keeps_shape, first=0)


class InvertedResidual(nn.Module):
    """drop(branch(x)) + shortcut(x), or the branch alone; `name` is the branch's in the state dict."""

    def __init__(
        self,
        branch: nn.Sequential,
        shortcut: nn.Module | None,
        drop: nn.Module | None = None,
        *,
        name: str = "block",
    ) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, branch)
        self.drop = drop or nn.Identity()
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        branch = getattr(self, self.name)(x)
        return branch if self.shortcut is None else self.shortcut(x) + self.drop(branch)


@dataclass(frozen=True)
class Classifier:
    """Dropout and a linear layer; before them, if `hidden` is not 0, a linear layer of as many channels and `act`."""

    dropout: float = 0.0  # as published: the share of features set to zero
    hidden: int = 0
    act: str = "hard-swish"
    bias: bool = True  # of the hidden layer

    def build(self, layers: Layers, c_in: int, num_classes: int) -> nn.Sequential:
        steps = [layers.dropout(self.dropout), nn.Linear(self.hidden or c_in, num_classes)]
        if self.hidden:
            steps = [nn.Linear(c_in, self.hidden, bias=self.bias), layers.act(self.act), *steps]
        return nn.Sequential(*steps)


class Features:
    """The features of a network while they are built: a stem, blocks, and what stands before the mean over positions.

    `channels` are the last module's. `levels`, for models.backbone: what ends each resolution, with its channels.
    """

    def __init__(self, layers: Layers, channels: int, act: str) -> None:
        """With the stem: a 3x3 convolution, norm and activation, that halves the size, but with --stem small."""
        self.layers, self.modules, self.levels = layers, [], {}
        stride = 1 if layers.stem("imagenet") == "small" else 2
        self.add(self._end(layers.conv(3, channels, 3, stride=stride, gain_from_data=True), act), channels, stride)

    def add(self, block: nn.Module, channels: int, stride: int) -> None:
        if stride == 1 and self.levels:
            self.levels.popitem()
        self.levels[f"features.{len(self.modules)}"] = self.channels = channels
        self.modules.append(block)

    def finish(self, channels: int, act: str) -> None:
        """The 1x1 convolution, norm and activation before the mean, which belong to no level."""
        self.modules.append(self._end(self.layers.conv(self.channels, channels, 1), act))
        self.channels = channels

    def _end(self, conv: nn.Conv2d, act: str) -> nn.Sequential:
        channels = conv.out_channels
        return nn.Sequential(conv, *(self.layers.end_norm_act(channels, act) or self.layers.norm_act(channels, act)))


class MobileNetwork(nn.Module):
    """Features, their mean over positions, classifier. images: (n, 3, h, w) float, normalized -> (n, num_classes)."""

    def __init__(self, features: Features, classifier: Classifier, num_classes: int) -> None:
        super().__init__()
        self.features, self.levels = nn.Sequential(*features.modules), features.levels
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = classifier.build(features.layers, features.channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(images)).flatten(1))


def make_divisible(channels: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `channels`, but the next one if that is less than 90 percent of them.

    The rounding of all papers' widths (in the code of arXiv 1801.04381).
    """
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest if nearest >= 0.9 * channels else nearest + divisor


def use_tensorflow_batch_norm(model: nn.Module) -> None:
    """Batch norms with TensorFlow's constants, which some of torchvision's weights were trained with."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eps, norm.momentum = 1e-3, 0.01
