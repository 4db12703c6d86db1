"""Gains that channels share: a batch norm and a gate of the PytorchInsight ancestor's ShuffleNets (seeds.md 4.3)."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class PairedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose gains and biases, (channels / 2,), are each that of two channels side by side ("bng2")."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.weight, self.bias = nn.Parameter(torch.ones(channels // 2)), nn.Parameter(torch.zeros(channels // 2))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked.add_(1)
        weight, bias = self.weight.repeat_interleave(2), self.bias.repeat_interleave(2)
        running = (self.running_mean, self.running_var)
        return functional.batch_norm(x, *running, weight, bias, self.training, self.momentum, self.eps)


class GlobalGate(nn.Module):
    """Weighs channels by sigmoid(weight * mean + bias), the means normalized over batch and channels at once ("gl").

    `groups` channels share a weight and a bias, those that are (channels / groups) apart. `bn` normalizes (n, 1, c, 1).
    """

    def __init__(self, channels: int, groups: int, norm: nn.Module) -> None:
        super().__init__()
        self.groups, self.bn = groups, norm
        self.weight, self.bias = (nn.Parameter(torch.full((channels // groups,), value)) for value in (0.0, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        means = self.bn(x.mean((2, 3))[:, None, :, None])[:, 0, :, 0]  # (n, c)
        gates = torch.sigmoid(means * self.weight.repeat(self.groups) + self.bias.repeat(self.groups))
        return x * gates[:, :, None, None]
