"""Convolutions whose kernel is computed from their parameters: weight standardization, weight normalization, PWS.

A convolution that is called by itself computes its kernel anew at every use, in training and in evaluation: nothing is
kept, so nothing can be stale, however the parameters were changed (an optimizer step, loaded weights, `.data`, a
collective, another device). In a network `models.layers.kernels` gives each its kernel before the forward pass, all
computed at once. `folded` makes the plain network with the kernels written out.
"""

import copy
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

WS_EPSILON = 1e-5  # added to the standard deviation, not to the variance, as in the authors' code


class ZeroConv2d(nn.Conv2d):
    """A convolution that starts at zero, in every network, so that what it weighs or moves starts alike everywhere."""

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


class Given(NamedTuple):
    """A kernel that was computed beforehand, and the `state()` of the convolution that it was computed in."""

    state: Hashable
    kernel: Tensor


class StandardizedConv2d(nn.Conv2d):
    """A convolution with `kernel()` in the place of its weight. Subclasses say what the kernel is, and of which gain.

    `given` is the kernel that was computed together with others'; it serves as long as the state is the one that it was
    computed in. `kept` while it is to serve more than one forward pass.
    """

    plain_type: type[nn.Conv2d] = nn.Conv2d  # what it is when its kernel is written out
    autocasts = True  # its kernel, to the type that autocast computes in
    can_fuse = True  # with what follows it: it is a plain convolution but for its kernel

    def __init__(self, *sizes: int, **options: object) -> None:
        super().__init__(*sizes, **options)
        # There from the start: torch's compiler, which asks for them, would compile anew once they appear.
        self.given: Given | None = None
        self.kept = False

    @property
    def gain(self) -> nn.Parameter | None:
        """A factor for each filter, (c_out,)."""
        return None

    def standardized(self, filters: Tensor, gains: Tensor | None) -> Tensor:
        """Kernels of filters (rows, c_in, k, k) and their gains (rows,). No filter has a part in another's kernel."""
        raise NotImplementedError

    @property
    def coefficients(self) -> tuple[float, float, float] | None:
        """e, s and f of `models.layers.triton_standardization`; None where it does not know the formula."""
        return None

    def likeness(self) -> Hashable:
        """Equal for convolutions whose filters may stand in one tensor and be standardized by any of them."""
        return type(self).standardized, self.weight.shape[1:]

    def kernel(self) -> Tensor:
        """The kernel that the input is convolved with, of the weight's shape; gradients flow to the parameters."""
        return self.standardized(self.weight, self.gain)

    def state(self) -> Hashable:
        """What tells that a kernel is no longer the one to use. `.data` that is written to in place is not seen."""
        parameters = [p for p in (self.weight, self.gain) if p is not None]
        places = [p.data_ptr() for p in parameters] if self.kept else []
        return *(p._version for p in parameters), *places, self.compute_type(), torch.is_grad_enabled()

    def compute_type(self) -> torch.dtype:
        """The type of the kernel in the convolution: autocast's, or that of the weight, which autocast casts itself."""
        weight = self.weight
        device = weight.device.type
        if not self.autocasts or weight.dtype is torch.float64 or not torch.amp.is_autocast_available(device):
            return weight.dtype
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype

    def current_kernel(self) -> Tensor:
        """The kernel that was given, if it is still the one to use, or a new one."""
        has_kernel = self.given is not None and self.given.state == self.state()
        return self.given.kernel if has_kernel else self.kernel()

    def linear(self, x: Tensor) -> Tensor:
        """The convolution and its bias, whatever the layer may do besides."""
        return self._conv_forward(x, self.current_kernel(), self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class WSConv2d(StandardizedConv2d):
    """Weight standardization (Qiao et al., arXiv 1903.10520): each filter minus its mean, over its sample deviation.

    A depthwise filter is one too, standardized over its own k^2 weights: the paper's reason, what a norm behind the
    filter makes of its scale and mean, does not depend on its fan, and neither paper nor ancestor excepts any (the
    ancestor's WS MobileNetV1 and ShuffleNetV1 are numbers without code, seeds.md 4.5). It then sums to zero, and
    passes differences between neighbours but not their mean.
    """

    factor = 1.0  # of the deviation

    @property
    def coefficients(self) -> tuple[float, float, float]:
        return WS_EPSILON, 1.0, self.factor

    def standardized(self, filters: Tensor, gains: Tensor | None) -> Tensor:
        rows = _rows(filters)
        centred = rows - rows.mean(2, keepdim=True)
        # A norm, unlike a square root, has a finite gradient at zero.
        deviation = torch.linalg.vector_norm(centred, dim=2, keepdim=True) / (rows.shape[2] - 1) ** 0.5
        return _filters(centred / (self._scaled(deviation) + WS_EPSILON), filters)

    def _scaled(self, deviation: Tensor) -> Tensor:
        return deviation


class A1Conv2d(WSConv2d):
    """WS whose deviation is multiplied by the root of the number of all weights: filters of norm about 1 / sqrt(c_out).

    Source: the PytorchInsight ancestor, which defines and does not use it (seeds.md 4.2).
    """

    @property
    def factor(self) -> float:
        return self.weight.numel() ** 0.5

    def likeness(self) -> Hashable:
        return *super().likeness(), self.factor

    def _scaled(self, deviation: Tensor) -> Tensor:
        return deviation * self.factor


class WNConv2d(StandardizedConv2d):
    """Weight normalization (Salimans and Kingma, arXiv 1602.07868): W = g V / ||V|| for each filter; `weight` is V.

    `g` (c_out,) starts as ||V||, so that the network starts as the one without weight normalization.
    """

    def __init__(self, c_in: int, c_out: int, kernel_size: int, **options: int) -> None:
        super().__init__(c_in, c_out, kernel_size, **options)
        self.g = nn.Parameter(self.filter_norms().detach().clone())

    def filter_norms(self) -> Tensor:
        """||V|| of each filter (c_out,)."""
        return _norms(self.weight)

    @property
    def gain(self) -> nn.Parameter:
        return self.g

    def standardized(self, filters: Tensor, gains: Tensor) -> Tensor:
        return filters * (gains / _norms(filters)).view(-1, 1, 1, 1)


def _norms(filters: Tensor) -> Tensor:
    return torch.linalg.vector_norm(_rows(filters)[0], dim=1)


def _rows(filters: Tensor) -> Tensor:
    """A view on filters (n, c_in, k, k): the weights of each, in the order in which they lie in memory (1, n, fan)."""
    return (filters.permute(0, 2, 3, 1) if is_channels_last(filters) else filters).reshape(1, len(filters), -1)


def _filters(rows: Tensor, like: Tensor) -> Tensor:
    """What `_rows` views, of new rows: filters of the shape and layout of `like`."""
    if not is_channels_last(like):
        return rows.view_as(like)
    n, c, h, w = like.shape
    return rows.view(n, h, w, c).permute(0, 3, 1, 2)


def is_channels_last(filters: Tensor) -> bool:
    """Whether filters that are dense in memory lie in channels_last, and not in the usual order at once."""
    return not filters.is_contiguous() and filters.stride(1) == 1


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
        fan = self.weight.numel() // self.weight.shape[0 if self.rule.fan == "in" else 1]
        return 2 / fan

    @property
    def gain(self) -> nn.Parameter:
        return self.alpha

    @property
    def gamma(self) -> float:
        """What is added to the variance of a filter."""
        return self.rule.gamma * (self.kaiming_variance if self.rule.equiv else 1)

    @property
    def coefficients(self) -> tuple[float, float, float]:
        return self.gamma, self.kaiming_variance**0.5, 0.0

    def likeness(self) -> Hashable:
        return *super().likeness(), self.gamma, self.kaiming_variance

    def standardized(self, filters: Tensor, gains: Tensor) -> Tensor:
        # Batch norm with the filters as channels is this formula in one fused kernel: forward and backward of a third
        # of ResNet-50's filters took 30 ms on one core, by var_mean 159 ms.
        rows, scaled = _rows(filters), gains * self.kaiming_variance**0.5
        return _filters(functional.batch_norm(rows, None, None, scaled, training=True, eps=self.gamma), filters)

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
