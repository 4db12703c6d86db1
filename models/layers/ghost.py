"""Ghost batch norm: statistics over groups of the batch. Hoffer et al., arXiv 1705.08741."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GhostBatchNorm2d(nn.BatchNorm2d):
    """`BatchNorm2d` that in training normalizes each `group` samples, one after the other, by their own statistics.

    The running statistics move once a step, by the mean over groups, as by the mean over shards: a shard of two ghost
    batches is two shards of one. (The paper's algorithm 1 moves them once for each group, which is another momentum.)
    `group` is to divide the batch.
    """

    group: int

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        self.num_batches_tracked.add_(1)
        parts, means, variances = [], [], []
        for part in x.split(self.group):
            mean, variance = self.running_mean.clone(), self.running_var.clone()
            parts.append(F.batch_norm(part, mean, variance, self.weight, self.bias, True, self.momentum, self.eps))
            means.append(mean)
            variances.append(variance)
        with torch.no_grad():
            self.running_mean.copy_(torch.stack(means).mean(0))
            self.running_var.copy_(torch.stack(variances).mean(0))
        return torch.cat(parts)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, group={self.group}"
