"""Lambda ResNets: ResNets whose 3x3 convolutions are lambda layers. Bello, arXiv 2102.08602; ModelZoo.pytorch's.

A lambda layer has norms of its own, on queries and values, and neither a norm nor an activation behind it.
"""

from models.resnet import ResNetShape, bottleneck

DEPTHS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}

LAMBDANETS = {
    f"lambda_resnet{depth}": ResNetShape(bottleneck, depths, attention="lambda") for depth, depths in DEPTHS.items()
}
