"""Attentions that weigh what a residual branch or a stage computed: each maps (n, c, h, w) to the same shape.

Their small networks keep plain convolutions whatever the norm of the network; the norm inside them is the caller's.
"""

import math
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.layers.activation import ACTIVATIONS
from models.layers.channels import fewer_than_positions
from models.layers.convolution import ZeroConv2d

NormLayer = Callable[[int], nn.Module]


class PooledLinear(nn.Conv2d):
    """A linear layer of pooled channels, (n, c, 1, 1), as the 1x1 convolution that torchvision has for it."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 1)


class SqueezeExcitation(nn.Module):
    """Weighs channels by what their means say: x * gate(fc2(act(fc1(mean)))). Hu et al., arXiv 1709.01507.

    x: (n, channels, h, w). The two layers have biases.
    """

    def __init__(self, channels: int, hidden: int, act: str = "relu", gate: str = "sigmoid") -> None:
        super().__init__()
        self.fc1, self.act = PooledLinear(channels, hidden), ACTIVATIONS[act]()
        self.fc2, self.gate = PooledLinear(hidden, channels), ACTIVATIONS[gate]()

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


# What one number may say of a channel's positions; CBAM has the first two.
POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean((2, 3), keepdim=True),
    "max": lambda x: x.amax((2, 3), keepdim=True),
    "norm": lambda x: torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True),
    "logsumexp": lambda x: x.logsumexp((2, 3), keepdim=True),
}


class ChannelGate(SqueezeExcitation):
    """Weighs channels by the sum of what several pools say, through the same two layers."""

    def __init__(self, channels: int, hidden: int, pools: tuple[str, ...] = ("mean", "max")) -> None:
        super().__init__(channels, hidden)
        self.pools = [POOLS[name] for name in pools]

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(sum(self.logits(pool(x)) for pool in self.pools))


class SpatialGate(nn.Module):
    """Weighs positions by a 7x7 convolution of their maximum and mean over channels."""

    def __init__(self, norm: NormLayer) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 1, 7, padding=3, bias=False), norm(1)
        if isinstance(self.bn, nn.BatchNorm2d):
            self.bn.momentum = 0.01  # the authors' code
        for gain in (gain for name, gain in self.bn.named_parameters() if name == "weight"):
            nn.init.zeros_(gain)  # so that it starts as 1/2 everywhere; PytorchInsight's, seeds.md 4.4

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.bn(self.conv(extremes(x))))


def extremes(x: Tensor) -> Tensor:
    """x: (n, c, h, w) -> maximum and mean over channels (n, 2, h, w)."""
    return torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)


class ConvolutionalBlockAttention(nn.Module):
    """Weighs channels, then positions. Woo et al., arXiv 1807.06521 (CBAM)."""

    def __init__(self, channels: int, hidden: int, norm: NormLayer, pools: tuple[str, ...] = ("mean", "max")) -> None:
        super().__init__()
        self.channel, self.spatial = ChannelGate(channels, hidden, pools), SpatialGate(norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.spatial(self.channel(x))


class BottleneckAttention(nn.Module):
    """Weighs each element by 1 + sigmoid(a(channel) b(position)), between stages. Park et al., arXiv 1807.06514.

    The product of the two is the PytorchInsight ancestor's (seeds.md 4.2); the paper has their sum.
    """

    DILATION = 4

    def __init__(self, channels: int, hidden: int, norm: NormLayer) -> None:
        super().__init__()
        layers = PooledLinear(channels, hidden), PooledLinear(hidden, channels)
        self.channel = nn.Sequential(layers[0], norm(hidden), nn.ReLU(), layers[1])
        convs = [nn.Conv2d(channels, hidden, 1)]
        convs += [nn.Conv2d(hidden, hidden, 3, padding=self.DILATION, dilation=self.DILATION) for _ in range(2)]
        steps = [module for conv in convs for module in (conv, norm(hidden), nn.ReLU())]
        self.spatial = nn.Sequential(*steps, nn.Conv2d(hidden, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + torch.sigmoid(self.channel(_means(x)) * self.spatial(x)))


class ContextMask(nn.Conv2d):
    """The 1x1 convolution that attends to positions. It starts by its fan in, as its authors', in every network."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 1, 1)

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight, mode="fan_in", nonlinearity="relu")
        nn.init.zeros_(self.bias)


class GlobalContext(nn.Module):
    """Adds to every position the same vector, computed from an attended mean. Cao et al., arXiv 1904.11492 (GC).

    The paper also tries a plain mean (`attended` false) and a gate: `fusions` may have "mul", "add" or both.
    """

    def __init__(
        self, channels: int, hidden: int, *, attended: bool = True, fusions: tuple[str, ...] = ("add",)
    ) -> None:
        super().__init__()
        self.mask = ContextMask(channels) if attended else None
        self.mul, self.add = (_transform(channels, hidden) if name in fusions else None for name in ("mul", "add"))

    def forward(self, x: Tensor) -> Tensor:
        context = self._context(x)
        y = x if self.mul is None else x * torch.sigmoid(self.mul(context))
        return y if self.add is None else y + self.add(context)

    def _context(self, x: Tensor) -> Tensor:
        """x: (n, c, h, w) -> (n, c, 1, 1)."""
        if self.mask is None:
            return _means(x)
        shares = self.mask(x).flatten(2).softmax(2)  # (n, 1, h w)
        return (x.flatten(2) * shares).sum(2)[..., None, None]


def _transform(channels: int, hidden: int) -> nn.Sequential:
    norm = nn.GroupNorm(1, hidden)  # of one position, so the layer norm of the paper
    layers = {"fc1": nn.Conv2d(channels, hidden, 1), "norm": norm, "act": nn.ReLU()}
    return nn.Sequential(OrderedDict(layers, fc2=ZeroConv2d(hidden, channels, 1)))


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
