"""Convolutions that choose where they look, and how hard: modulated deformable ones (DCNv2).

Zhu et al., arXiv 1811.11168. A convolution of its own gives for each tap an offset of two numbers and a weight in
[0, 1]; it starts at zero, so at offsets of 0 and weights of 1/2, and learns at a tenth of the rate.
"""

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torchvision.ops import deform_conv2d

from models.layers.convolution import ZeroConv2d

RATE = 0.1  # of what gives offsets and weights, over that of other weights; the paper, section 3.2


class DeformableConv2d(nn.Conv2d):
    """A modulated deformable convolution; also what `deformable` mixes into another class of convolutions.

    `sampling` gives (n, 3 k^2, h, w): down and right of each tap in turn, then the weights of taps before a sigmoid.
    """

    autocasts = False  # its kernel: it computes in no less than float32

    def __init__(self, c_in: int, c_out: int, kernel_size: int, **options: object) -> None:
        super().__init__(c_in, c_out, kernel_size, **options)
        window = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        self.sampling = ZeroConv2d(c_in, 3 * kernel_size**2, kernel_size, **window)

    can_fuse = False

    @property
    def plain_type(self) -> type[nn.Conv2d]:
        return DeformableConv2d

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        window = (self.stride, self.padding, self.dilation)
        sampled = conv2d(x, _slowed(self.sampling.weight), _slowed(self.sampling.bias), *window)
        # torchvision has no such kernel for bfloat16 on a CPU, and autocast leaves it alone there.
        x, sampled = (tensor.to(torch.promote_types(weight.dtype, torch.float32)) for tensor in (x, sampled))
        taps = sampled.shape[1] // 3
        offsets, weights = sampled.split([2 * taps, taps], dim=1)
        return deform_conv2d(x, offsets, weight, bias, *window, mask=weights.sigmoid())


def _slowed(parameter: Tensor) -> Tensor:
    """The same values, whose gradient is `RATE` times as large."""
    return parameter.detach().lerp(parameter, RATE)


def deformable(layer: Callable[..., nn.Conv2d]) -> Callable[..., nn.Conv2d]:
    """The deformable form of a class of convolutions, or of one with some of its settings filled in."""
    if isinstance(layer, partial):
        return partial(_deformable_class(layer.func), *layer.args, **layer.keywords)
    return _deformable_class(layer)


@cache
def _deformable_class(kind: type[nn.Conv2d]) -> type[nn.Conv2d]:
    return DeformableConv2d if kind is nn.Conv2d else type(f"Deformable{kind.__name__}", (DeformableConv2d, kind), {})
