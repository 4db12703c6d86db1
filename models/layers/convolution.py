"""Convolutions whose kernel is computed from their parameters: weight standardization, weight normalization, PWS.

The kernel is computed anew at every use, in training and in evaluation: nothing is kept, so nothing can be stale,
however the parameters were changed (an optimizer step, loaded weights, `.data`, a collective, another device). `folded`
makes the plain network with the kernels written out, for whoever wants to save that time.
"""

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

WS_EPSILON = 1e-5  # added to the standard deviation, not to the variance, as in the authors' code


class ZeroConv2d(nn.Conv2d):
    """A convolution that starts at zero, in every network, so that what it weighs or moves starts alike everywhere."""

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


class StandardizedConv2d(nn.Conv2d):
    """A convolution with `kernel()` in the place of its weight. Subclasses say what the kernel is."""

    plain_type: type[nn.Conv2d] = nn.Conv2d  # what it is when its kernel is written out

    def kernel(self) -> Tensor:
        """The kernel that the input is convolved with, of the weight's shape; gradients flow to the parameters."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.kernel(), self.bias)


class WSConv2d(StandardizedConv2d):
    """Weight standardization (Qiao et al., arXiv 1903.10520): each filter minus its mean, over its sample deviation.

    A depthwise filter is one too, standardized over its own k^2 weights: the paper's reason, what a norm behind the
    filter makes of its scale and mean, does not depend on its fan, and neither paper nor ancestor excepts any (the
    ancestor's WS MobileNetV1 and ShuffleNetV1 are numbers without code, seeds.md 4.5). It then sums to zero, and
    passes differences between neighbours but not their mean.
    """

    def kernel(self) -> Tensor:
        filters = self.weight.flatten(1)
        centred = filters - filters.mean(1, keepdim=True)
        # A norm, unlike a square root, has a finite gradient at zero.
        deviation = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / (filters.shape[1] - 1) ** 0.5
        return (centred / (self._scaled(deviation) + WS_EPSILON)).view_as(self.weight)

    def _scaled(self, deviation: Tensor) -> Tensor:
        return deviation


class A1Conv2d(WSConv2d):
    """WS whose deviation is multiplied by the root of the number of all weights: filters of norm about 1 / sqrt(c_out).

    Source: the PytorchInsight ancestor, which defines and does not use it (seeds.md 4.2).
    """

    def _scaled(self, deviation: Tensor) -> Tensor:
        return deviation * self.weight.numel() ** 0.5


class WNConv2d(StandardizedConv2d):
    """Weight normalization (Salimans and Kingma, arXiv 1602.07868): W = g V / ||V|| for each filter; `weight` is V.

    `g` (c_out,) starts as ||V||, so that the network starts as the one without weight normalization.
    """

    def __init__(self, c_in: int, c_out: int, kernel_size: int, **options: int) -> None:
        super().__init__(c_in, c_out, kernel_size, **options)
        self.g = nn.Parameter(self.filter_norms().detach().clone())

    def filter_norms(self) -> Tensor:
        """||V|| of each filter (c_out,)."""
        return torch.linalg.vector_norm(self.weight.flatten(1), dim=1)

    def kernel(self) -> Tensor:
        return self.weight * (self.g / self.filter_norms()).view(-1, 1, 1, 1)


@dataclass(frozen=True)
class PWSRule:
    """How PWS scales a filter. `gamma` is added to its variance: absolute, or with `equiv` a share of 2 / fan."""

    gamma: float = 1e-5
    equiv: bool = False
    fan: Literal["in", "out"] = "out"


class PWSConv2d(StandardizedConv2d):
    """PWS convolution: sqrt(2 / fan) alpha (W - mean) / sqrt(variance + gamma) for each filter, population variance.

    `alpha` (c_out,) is learned. Where `gain_from_data` is set, it is meant to start from the first batch: see
    `models.layers.gain.set_data_gains`. Source: the PWSConv ancestor, seeds.md 2.1.
    """

    def __init__(self, c_in: int, c_out: int, kernel_size: int, rule: PWSRule | None = None, **options: int) -> None:
        super().__init__(c_in, c_out, kernel_size, **options)
        self.rule = rule or PWSRule()
        self.gain_from_data = False
        self.alpha = nn.Parameter(torch.ones(c_out))

    @property
    def kaiming_variance(self) -> float:
        """2 / fan, the variance of the weights at the start (He et al., arXiv 1502.01852)."""
        filters = self.weight if self.rule.fan == "in" else self.weight.transpose(0, 1)
        return 2 / filters[0].numel()

    def kernel(self) -> Tensor:
        gamma = self.rule.gamma * (self.kaiming_variance if self.rule.equiv else 1)
        gain = self.alpha * self.kaiming_variance**0.5
        # Batch norm with the filters as channels is this formula in one fused kernel: forward and backward of a third
        # of ResNet-50's filters took 30 ms on one core, by var_mean 159 ms.
        filters = self.weight.flatten(1)[None]
        return functional.batch_norm(filters, None, None, gain, training=True, eps=gamma).view_as(self.weight)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.rule}"


def folded(model: nn.Module) -> nn.Module:
    """A copy of `model` with plain convolutions in place of the standardized ones: same outputs, nothing to compute."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, conv in parent.named_children():
            if isinstance(conv, StandardizedConv2d):
                setattr(parent, name, _plain(conv))
    return model


@torch.no_grad()
def _plain(conv: StandardizedConv2d) -> nn.Conv2d:
    plain = conv.plain_type(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size[0],
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=conv.bias is not None,
    ).to(conv.weight)
    state = {name: value for name, value in conv.state_dict().items() if name in plain.state_dict()}
    plain.load_state_dict({**state, "weight": conv.kernel()})
    return plain.train(conv.training)
