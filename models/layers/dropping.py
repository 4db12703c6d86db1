"""What drops in training: branches, blocks of values, features. In evaluation all of it is the identity.

Draws come from torch's generator, which a run seeds for each shard of each step; rates are numbers on the host, so that
nothing here waits for the device.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DropPath(nn.Module):
    """x: (n, c, h, w), a residual branch -> zero for each sample with probability `rate`, else divided by 1 - rate.

    Stochastic depth, Huang et al., arXiv 1603.09382, in torchvision's and timm's form: a draw for each sample, and the
    scale in training, where the paper has it in evaluation. EfficientNet's drop-connect is the same.
    `number` is that of the block, of which `set_drop_paths` makes the rate.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.rate = number, 0.0

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors(x) if self.training and self.rate else x

    def factors(self, x: Tensor) -> Tensor:
        """(n, 1, 1, 1), each zero or 1 / (1 - rate)."""
        keep = 1 - self.rate
        return survivors(torch.rand(len(x), 1, 1, 1, device=x.device), keep).to(x.dtype) / keep

    def extra_repr(self) -> str:
        return f"rate={self.rate:.4g}"


def survivors(uniforms: Tensor, keep: float) -> Tensor:
    """One where a number in [0, 1) is at least 1 - keep, else zero: floor(keep + u), as EfficientNet's authors draw."""
    return torch.floor(keep + uniforms)


def set_drop_paths(paths: Iterable[DropPath], rate: float, blocks: int) -> None:
    """Linear decay: block l of L is left out with probability rate l / L, so that the first blocks, whose features all
    others need, mostly stay (section 3 of the paper). Blocks are counted from 1; an EfficientNet's, as its authors
    do, from 0."""
    for path in paths:
        path.rate = rate * path.number / blocks


class DropBlock(nn.Module):
    """x: (n, c, h, w) -> with square blocks of zeros, each sample and channel its own, the rest scaled up.

    Ghiasi et al., arXiv 1810.12890, algorithm 1: a block starts with probability gamma wherever it fits in whole, and
    what is left is multiplied by the number of values over the number of those left. `rate` is the probability that a
    value is zero at the end of the ramp; `ramp`, the share of it that holds now, is set by `DropBlockRamp` for each
    step.
    """

    def __init__(self, rate: float, size: int) -> None:
        super().__init__()
        self.rate, self.size, self.ramp = rate, size, 1.0

    def forward(self, x: Tensor) -> Tensor:
        rate = self.rate * self.ramp
        if not (self.training and rate):
            return x
        height, width = x.shape[2:]
        size = min(self.size, height, width)
        places = (*x.shape[:2], height - size + 1, width - size + 1)  # of the centres of blocks that fit
        starts = torch.rand(places, device=x.device) < gamma(rate, size, height, width)
        return drop_blocks(x, F.pad(starts.to(x.dtype), (size // 2, (size - 1) // 2) * 2), size)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.4g}, size={self.size}"


def gamma(rate: float, size: int, height: int, width: int) -> float:
    """The probability of each place to start a block, such that about a share `rate` of all values is zero."""
    return rate * height * width / (size**2 * (height - size + 1) * (width - size + 1))


def kept(centres: Tensor, size: int) -> Tensor:
    """centres: (n, c, h, w) of zeros and ones -> the same shape, zero in the size x size block around each one."""
    before, after = (size - 1) // 2, size // 2
    return 1 - F.max_pool2d(F.pad(centres, (before, after, before, after)), size, stride=1)


def drop_blocks(x: Tensor, centres: Tensor, size: int) -> Tensor:
    """x (n, c, h, w) without the blocks around `centres`, scaled so that its mean over all values is kept."""
    mask = kept(centres, size)
    left = mask.sum(dtype=torch.promote_types(mask.dtype, torch.float32)).clamp(min=1)  # half counts to 2048 only
    return x * mask * (mask.numel() / left).to(x.dtype)


class DropBlockRamp:
    """Raises the rate of a network's drop-blocks linearly from zero, at the first of `steps`, to the whole at the end:
    the paper's schedule (section 3.2). A function of the step, so that a resumed run needs no more."""

    def __init__(self, model: nn.Module, steps: int) -> None:
        self.blocks = [module for module in model.modules() if isinstance(module, DropBlock)]
        self.steps = steps

    def __call__(self, step: int) -> None:
        for block in self.blocks:
            block.ramp = step / self.steps


DROPPING = (DropPath, DropBlock, nn.Dropout)
