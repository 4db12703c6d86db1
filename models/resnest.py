"""ResNeSts: ResNets whose 3x3 convolutions are split attentions. Zhang et al., arXiv 2004.08955.

`resnest50` is ModelZoo.pytorch's, a ResNet-50 in all else (seeds.md 5.3). The others are the authors', under timm's
names: with three 3x3 convolutions for a stem, averages before the projections of shortcuts and behind split attentions.
"""

from models.resnet import ResNetShape, bottleneck


def authors(depths: tuple[int, ...], stem_channels: int = 64) -> ResNetShape:
    """A row of the paper's."""
    options = {"stem": "deep", "stem_channels": stem_channels, "avg_down": True, "attention": "split_paper"}
    return ResNetShape(bottleneck, depths, **options)


RESNESTS = {
    "resnest50": ResNetShape(bottleneck, (3, 4, 6, 3), attention="split"),
    "resnest14d": authors((1, 1, 1, 1)),
    "resnest26d": authors((2, 2, 2, 2)),
    "resnest50d": authors((3, 4, 6, 3)),
    "resnest101e": authors((3, 4, 23, 3), stem_channels=128),
    "resnest200e": authors((3, 24, 36, 3), stem_channels=128),
    "resnest269e": authors((3, 30, 48, 8), stem_channels=128),
}
