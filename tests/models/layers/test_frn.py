"""Filter response normalization against its formula."""

import torch
from torch import nn

from models.layers.frn import FilterResponseNorm


def test_frn_divides_by_the_root_mean_square_and_cuts_at_tau() -> None:
    torch.manual_seed(0)
    x, norm = torch.randn(3, 4, 5, 2, dtype=torch.float64) + 1, FilterResponseNorm(4).double()
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, -1, 1)
    weight, bias, tau = (parameter[None, :, None, None] for parameter in (norm.weight, norm.bias, norm.tau))
    normalized = x / (x.square().mean((2, 3), keepdim=True) + 1e-6).sqrt() * weight + bias
    torch.testing.assert_close(norm(x), torch.where(normalized > tau, normalized, tau), rtol=1e-12, atol=1e-12)
    norm.tau = None  # where a network has a norm without an activation
    torch.testing.assert_close(norm(x), normalized, rtol=1e-12, atol=1e-12)


def test_frn_starts_with_the_threshold_of_relu_and_has_no_batch() -> None:
    torch.manual_seed(0)
    x, norm = torch.randn(3, 4, 5, 2), FilterResponseNorm(4)
    assert norm(x).min() == 0
    torch.testing.assert_close(norm(x)[1:2], norm(x[1:2]))
    assert FilterResponseNorm(4, linear=True).tau is None
    assert norm(x.bfloat16()).dtype == torch.bfloat16
