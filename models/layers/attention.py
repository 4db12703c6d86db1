"""Attentions that weigh what a residual branch or a stage computed: each maps (n, c, h, w) to the same shape.

Their small networks keep plain convolutions whatever the norm of the network; the norm inside them is the caller's.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.layers.activation import ACTIVATIONS
from models.layers.channels import fewer_than_positions

NormLayer = Callable[[int], nn.Module]


class SqueezeExcitation(nn.Module):
    """Weighs channels by what their means say: x * gate(fc2(act(fc1(mean)))). Hu et al., arXiv 1709.01507.

    x: (n, channels, h, w). The two layers are 1x1 convolutions with biases, as torchvision has them.
    """

    def __init__(self, channels: int, hidden: int, act: str = "relu", gate: str = "sigmoid") -> None:
        super().__init__()
        self.fc1, self.act = nn.Conv2d(channels, hidden, 1), ACTIVATIONS[act]()
        self.fc2, self.gate = nn.Conv2d(hidden, channels, 1), ACTIVATIONS[gate]()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.logits(_means(x)))

    def logits(self, pooled: Tensor) -> Tensor:
        """pooled: (n, c, 1, 1) -> what the gate gets, of the same shape."""
        return self.fc2(self.act(self.fc1(pooled)))


class SpatialGroupEnhance(nn.Module):
    """Weighs positions, in each group of channels by how like its mean they are. Li et al., arXiv 1905.09646.

    The likeness is the scalar product with the group's mean, normalized over positions by the sample deviation.
    """

    EPSILON = 1e-5  # added to the deviation, as in the authors' code

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight, self.bias = nn.Parameter(torch.zeros(groups)), nn.Parameter(torch.ones(groups))

    def forward(self, x: Tensor) -> Tensor:
        grouped = x.unflatten(1, (self.groups, -1))  # (n, g, c/g, h, w)
        likeness = (grouped * grouped.mean((3, 4), keepdim=True)).sum(2, keepdim=True)  # (n, g, 1, h, w)
        centred = likeness - likeness.mean((3, 4), keepdim=True)
        deviation = likeness.std((3, 4), keepdim=True, correction=fewer_than_positions(x))
        weight, bias = self.weight.view(-1, 1, 1, 1), self.bias.view(-1, 1, 1, 1)
        gates = torch.sigmoid(centred / (deviation + self.EPSILON) * weight + bias)
        return (grouped * gates).flatten(1, 2)


class ConvolutionalBlockAttention(nn.Module):
    """Weighs channels, then positions, each by mean and maximum over the other. Woo et al., arXiv 1807.06521."""

    def __init__(self, channels: int, hidden: int, norm: NormLayer) -> None:
        super().__init__()
        self.channel = SqueezeExcitation(channels, hidden)
        self.conv, self.bn = nn.Conv2d(2, 1, 7, padding=3, bias=False), norm(1)
        if isinstance(self.bn, nn.BatchNorm2d):
            self.bn.momentum = 0.01  # the authors' code

    def forward(self, x: Tensor) -> Tensor:
        maxima = x.amax((2, 3), keepdim=True)
        x = x * torch.sigmoid(self.channel.logits(_means(x)) + self.channel.logits(maxima))
        return x * torch.sigmoid(self.bn(self.conv(extremes(x))))


def extremes(x: Tensor) -> Tensor:
    """x: (n, c, h, w) -> maximum and mean over channels (n, 2, h, w)."""
    return torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)


class BottleneckAttention(nn.Module):
    """Weighs each element by 1 + sigmoid(a(channel) b(position)), between stages. Park et al., arXiv 1807.06514.

    The product of the two is the PytorchInsight ancestor's (seeds.md 4.2); the paper has their sum.
    """

    DILATION = 4

    def __init__(self, channels: int, hidden: int, norm: NormLayer) -> None:
        super().__init__()
        self.channel = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), norm(hidden), nn.ReLU(), nn.Conv2d(hidden, channels, 1)
        )
        convs = [nn.Conv2d(channels, hidden, 1)]
        convs += [nn.Conv2d(hidden, hidden, 3, padding=self.DILATION, dilation=self.DILATION) for _ in range(2)]
        steps = [module for conv in convs for module in (conv, norm(hidden), nn.ReLU())]
        self.spatial = nn.Sequential(*steps, nn.Conv2d(hidden, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + torch.sigmoid(self.channel(_means(x)) * self.spatial(x)))


class GlobalContext(nn.Module):
    """Adds to every position the same vector, computed from an attended mean. Cao et al., arXiv 1904.11492."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.mask = nn.Conv2d(channels, 1, 1)
        self.fc1, self.norm = nn.Conv2d(channels, hidden, 1), nn.GroupNorm(1, hidden)  # LayerNorm of one position
        self.act, self.fc2 = nn.ReLU(), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        shares = self.mask(x).flatten(2).softmax(2)  # (n, 1, h w)
        context = (x.flatten(2) * shares).sum(2)[..., None, None]  # (n, c, 1, 1)
        return x + self.fc2(self.act(self.norm(self.fc1(context))))


class StyleRecalibration(nn.Module):
    """Weighs channels by two learned factors of their mean and deviation. Lee et al., arXiv 1903.10829 (SRM)."""

    EPSILON = 1e-5  # added to the variance, whose root has no gradient at zero

    def __init__(self, channels: int, norm: NormLayer) -> None:
        super().__init__()
        self.weight, self.bn = nn.Parameter(torch.zeros(channels, 2)), norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, (2, 3), correction=0)
        style = torch.stack([mean, (variance + self.EPSILON).sqrt()], 2)  # (n, c, 2)
        return x * torch.sigmoid(self.bn((style * self.weight).sum(2)[..., None, None]))


class EfficientChannelAttention(nn.Module):
    """Weighs channels by a convolution over their neighbours' means. Wang et al., arXiv 1910.03151.

    Its width is the odd number next to log2(c) / 2 + 1/2, the paper's rule with gamma 2 and b 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = int(math.log2(channels) / 2 + 0.5) | 1
        self.conv = nn.Conv1d(1, 1, width, padding=width // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3))[:, None]  # (n, 1, c)
        return x * torch.sigmoid(self.conv(means)).view(*x.shape[:2], 1, 1)


def _means(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True)  # (n, c, 1, 1)
