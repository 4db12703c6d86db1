"""Batch normalization over the batch of all ranks, on any device.

torch's own refuses CPU tensors, and `DistributedDataParallel` refuses it on CPUs by its type; hence one that is a plain
`BatchNorm2d` by type, calls torch's kernels on CUDA, and elsewhere adds up mean and variance itself.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.modules._functions import SyncBatchNorm as CudaSyncBatchNorm


class SyncBatchNorm2d(nn.BatchNorm2d):
    """`BatchNorm2d` whose batch is that of all ranks together, which may hold unequal numbers of images.

    Outside a process group, in one of a single rank, and in evaluation it is `BatchNorm2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if not self.training or ranks == 1:
            return super().forward(x)
        self._check_input_dim(x)
        self.num_batches_tracked.add_(1)
        if x.is_cuda:
            running = (self.running_mean, self.running_var)
            options = (self.eps, self.momentum, dist.group.WORLD, ranks)
            return CudaSyncBatchNorm.apply(x, self.weight, self.bias, *running, *options)
        return self._normalized(x)

    def _normalized(self, x: Tensor) -> Tensor:
        # Half precision keeps float32 statistics, as torch's kernels do.
        wide = x.to(torch.promote_types(x.dtype, self.running_mean.dtype))
        count, mean, variance = global_moments(wide)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = torch.rsqrt(variance + self.eps)
        if not self.affine:
            return ((wide - mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1)).to(x.dtype)
        mean, scale, bias = (tensor.view(1, -1, 1, 1) for tensor in (mean, self.weight * scale, self.bias))
        return ((wide - mean) * scale + bias).to(x.dtype)


def global_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count (), mean (c,) and population variance (c,) of x (n, c, h, w) over all ranks; differentiable.

    In two passes, mean first: E[x^2] - E[x]^2 would lose the digits of a small variance beside a large mean.
    """
    everything = (0, 2, 3)
    count = x.new_tensor([x.numel() / x.shape[1]])
    *total, count = _SumOverRanks.apply(torch.cat([x.sum(everything), count])).split(x.shape[1])
    mean = total[0] / count
    squares = (x - mean.view(1, -1, 1, 1)).square().sum(everything)
    return count.detach(), mean, _SumOverRanks.apply(squares) / count


class _SumOverRanks(torch.autograd.Function):
    """The sum over ranks. Every rank's loss depends on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: FunctionCtx, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return _SumOverRanks.apply(gradient)
