"""Selective kernels: several 3x3 convolutions in the place of one, mixed by channel (Li et al., arXiv 1903.06586)."""

from typing import Protocol

import torch
from torch import Tensor, nn


class Maker(Protocol):
    """What makes the layers: `models.layers.Layers`."""

    def conv(self, c_in: int, c_out: int, kernel_size: int, **options: int) -> nn.Module: ...

    def norm_act(self, channels: int) -> tuple[nn.Module, nn.Module]: ...

    def gate_norm(self, channels: int) -> nn.Module: ...


class SelectiveKernel(nn.Module):
    """The branches conv-norm-act of one input, added with weights that are a softmax over branches for each channel.

    `branches`: the options of each convolution; the weights come from the mean of the sum, through `hidden` channels.
    """

    def __init__(self, c_in: int, c_out: int, hidden: int, branches: list[dict[str, int]], layers: Maker) -> None:
        super().__init__()
        self.branches = []
        for i, options in enumerate(branches, start=1):
            norm, act = layers.norm_act(c_out)
            steps = {f"conv{i}": layers.conv(c_in, c_out, 3, **options), f"bn{i}": norm, f"act{i}": act}
            for name, module in steps.items():
                self.add_module(name, module)
            self.branches.append(list(steps))
        self.fc1, self.bn_fc = nn.Conv2d(c_out, hidden, 1, bias=False), layers.gate_norm(hidden)
        self.act = nn.ReLU()
        self.fc2 = nn.Conv2d(hidden, len(branches) * c_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        outputs = torch.stack([self._branch(names, x) for names in self.branches], 1)  # (n, m, c, h, w)
        means = outputs.mean((3, 4)).sum(1)[..., None, None]  # (n, c, 1, 1)
        logits = self.fc2(self.act(self.bn_fc(self.fc1(means))))  # (n, m c, 1, 1)
        return (outputs * logits.unflatten(1, (len(self.branches), -1)).softmax(1)).sum(1)

    def _branch(self, names: list[str], x: Tensor) -> Tensor:
        for name in names:
            x = getattr(self, name)(x)
        return x
