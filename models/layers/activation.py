"""Activations by name.

Some can take the place of their input where nothing else needs that: a large tensor less to make, to write and to keep.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn


class Swish(nn.Module):
    """x sigmoid(beta x). Ramachandran et al., arXiv 1710.05941; at beta 1 torch has it, as SiLU."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky-relu": nn.LeakyReLU,
    "prelu": nn.PReLU,  # one slope a layer, He et al., arXiv 1502.01852
    "swish": nn.SiLU,  # Ramachandran et al., arXiv 1710.05941, with beta = 1
    "hard-swish": nn.Hardswish,  # Howard et al., arXiv 1905.02244
    "mish": nn.Mish,  # Misra, arXiv 1908.08681
    "gelu": nn.GELU,  # Hendrycks and Gimpel, arXiv 1606.08415
    "quick-gelu": partial(Swish, 1.702),  # the approximation of that paper
    "elu": nn.ELU,  # Clevert et al., arXiv 1511.07289
    "sigmoid": nn.Sigmoid,
    "hard-sigmoid": nn.Hardsigmoid,
}

# Those whose gradient torch computes from their output: the others would keep a copy of their input.
IN_PLACE = (nn.ReLU, nn.ReLU6)
