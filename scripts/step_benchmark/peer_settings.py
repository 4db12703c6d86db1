"""Settings of torch that the scripts of peers make, and the arithmetic that --precision means for all alike."""

import torch

from scripts.step_benchmark.contenders import Setup
from utils.precision import allow_tf32


def set_arithmetic(setup: Setup) -> None:
    """Kernels of cuDNN chosen by trial, as all peers' scripts have it; fp32 without torch's own TF32 in convolutions,
    which ours has under --precision tf32 alone."""
    torch.backends.cudnn.benchmark = True
    allow_tf32(setup.precision == "tf32")
