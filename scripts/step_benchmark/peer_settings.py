"""Settings of torch that the scripts of peers make, and the arithmetic that --precision means for all alike."""

import torch

from scripts.step_benchmark.contenders import Setup


def set_arithmetic(setup: Setup) -> None:
    """Kernels of cuDNN chosen by trial, as all peers' scripts have it; fp32 without torch's own TF32 in convolutions,
    which ours has under --precision tf32 alone."""
    torch.backends.cudnn.benchmark = True
    for backend in (torch.backends.cuda.matmul, torch.backends.cudnn.conv):
        backend.fp32_precision = "tf32" if setup.precision == "tf32" else "ieee"
