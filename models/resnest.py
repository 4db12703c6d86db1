"""ResNeSts: ResNets whose 3x3 convolutions are split attentions. Zhang et al., arXiv 2004.08955.

`resnest50` is ModelZoo.pytorch's, a ResNet-50 in all else (seeds.md 5.3).
"""

from models.resnet import ResNetShape, bottleneck

RESNESTS = {
    "resnest50": ResNetShape(bottleneck, (3, 4, 6, 3), attention="split"),
}
