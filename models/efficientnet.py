"""EfficientNets B0 to B7 (Tan and Le, arXiv 1905.11946): one network, scaled in width and depth together.

Parameters carry torchvision's names. --width multiplies the row's own width.
"""

import math
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

STEM = 32
# (c_mid over c_in, c_out, blocks, kernel size, stride of the first) of each stage of B0.
STAGES = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)


@dataclass(frozen=True)
class EfficientNetShape:
    """A row: multipliers of channels and of blocks a stage, dropout, and the side of the images in pixels.

    `tensorflow`: batch norm's constants, which torchvision has in B5 to B7.
    """

    settings: ClassVar[tuple[str, ...]] = ("stem",)
    paper: ClassVar[str] = "arXiv 1905.11946"

    width: float
    depth: float
    dropout: float
    image_size: int
    tensorflow: bool = False

    def build(self, layers: Layers, num_classes: int) -> nn.Module:
        width = self.width * layers.width()
        features = Features(layers, make_divisible(STEM * width), "swish")
        for expansion, c_out, blocks, kernel_size, stride in STAGES:
            stage, c_in, c_out = [], features.channels, make_divisible(c_out * width)
            for _ in range(math.ceil(blocks * self.depth)):
                squeeze = Squeeze(max(1, c_in // 4), act="swish")
                shape = MBConv(c_in, c_in * expansion, c_out, kernel_size, 1 if stage else stride, "swish", squeeze)
                stage.append(shape.block(layers))
                c_in = c_out
            features.add(nn.Sequential(*stage), c_out, stride)
        features.finish(4 * features.channels, "swish")
        model = MobileNetwork(features, Classifier(self.dropout), num_classes)
        initialize(model, "efficientnet")
        if self.tensorflow:
            use_tensorflow_batch_norm(model)
        return model


EFFICIENTNETS = {
    "efficientnet_b0": EfficientNetShape(1.0, 1.0, 0.2, 224),
    "efficientnet_b1": EfficientNetShape(1.0, 1.1, 0.2, 240),
    "efficientnet_b2": EfficientNetShape(1.1, 1.2, 0.3, 260),
    "efficientnet_b3": EfficientNetShape(1.2, 1.4, 0.3, 300),
    "efficientnet_b4": EfficientNetShape(1.4, 1.8, 0.4, 380),
    "efficientnet_b5": EfficientNetShape(1.6, 2.2, 0.4, 456, tensorflow=True),
    "efficientnet_b6": EfficientNetShape(1.8, 2.6, 0.5, 528, tensorflow=True),
    "efficientnet_b7": EfficientNetShape(2.0, 3.1, 0.5, 600, tensorflow=True),
}
# The ModelZoo ancestor never scales widths (seeds.md 5.5, 8.40), so that from B2 on its networks are others.
EFFICIENTNETS |= {
    f"{name}_modelzoo": replace(row, width=1.0, tensorflow=False)
    for name, row in EFFICIENTNETS.items()
    if row.width != 1
}
