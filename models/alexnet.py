"""AlexNet: five convolutions and a classifier, without norms; torchvision's parameter names.

Krizhevsky, arXiv 1404.5997 (the one-tower form that torchvision has). The CIFAR form is the Weight Standardization
ancestor's (seeds.md 3.3): stride 4 from 32 px, one linear layer.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from models.layers import Layers
from models.layers.initialization import initialize

DROPOUT = 0.5  # before each hidden linear layer
HIDDEN = 4096  # width of a hidden linear layer

# (channels, kernel size) of the convolutions after the first; POOLED are the ones that a pooling follows.
CONVOLUTIONS = ((64, 11), (192, 5), (384, 3), (256, 3), (256, 3))
POOLED = (0, 1, 4)


class PlainNetwork(nn.Module):
    """A chain without branches. images: (n, 3, h, w) float, normalized -> logits (n, num_classes).

    What `features` leave is pooled to `size` x `size`, so that images of other sizes fit. `dropout` stands before a
    classifier that has none inside.
    """

    def __init__(
        self, features: nn.Sequential, size: int, classifier: nn.Module, dropout: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.features, self.avgpool = features, nn.AdaptiveAvgPool2d(size)
        self.dropout, self.classifier = dropout or nn.Identity(), classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.avgpool(self.features(images)).flatten(1)))


@dataclass(frozen=True)
class AlexNetShape:
    """A row of the table: how the first convolution and the poolings shrink the image, and what stands at the end."""

    settings: ClassVar[tuple[str, ...]] = ()
    paper: ClassVar[str] = "arXiv 1404.5997"

    padding: int  # of the first convolution
    pool: int  # size of the windows of the poolings, whose stride is 2
    size: int  # of the features that the classifier sees
    hidden: bool  # whether the classifier has hidden layers
    image_size: int = 224

    def build(self, layers: Layers, num_classes: int) -> nn.Module:
        channels = CONVOLUTIONS[-1][0] * self.size**2
        features = _features(self, layers)
        if self.hidden:
            model = PlainNetwork(features, self.size, _classifier(layers, channels, num_classes))
        else:
            model = PlainNetwork(features, self.size, nn.Linear(channels, num_classes), layers.dropout())
        initialize(model, "torch")
        return model


def _features(shape: AlexNetShape, layers: Layers) -> nn.Sequential:
    steps, c_in = [], 3
    for i, (channels, kernel_size) in enumerate(CONVOLUTIONS):
        # Not from `layers`: a norm that is a kind of convolution has no place here either.
        window = {"stride": 1, "padding": kernel_size // 2} if i else {"stride": 4, "padding": shape.padding}
        steps += [nn.Conv2d(c_in, channels, kernel_size, **window), layers.act(in_place=True)]
        if i in POOLED:
            steps.append(nn.MaxPool2d(shape.pool, stride=2))
        c_in = channels
    return nn.Sequential(*steps)


def _classifier(layers: Layers, channels: int, num_classes: int) -> nn.Sequential:
    hidden = [layers.dropout(DROPOUT), nn.Linear(channels, HIDDEN), layers.act()]
    hidden += [layers.dropout(DROPOUT), nn.Linear(HIDDEN, HIDDEN), layers.act()]
    return nn.Sequential(*hidden, nn.Linear(HIDDEN, num_classes))


ALEXNETS = {
    "alexnet": AlexNetShape(padding=2, pool=3, size=6, hidden=True),
    "cifar_alexnet": AlexNetShape(padding=5, pool=2, size=1, hidden=False, image_size=32),
}
