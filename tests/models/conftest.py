"""What the tests of several families ask of a network."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import build_model
from utils.config import ModelConfig


@pytest.fixture
def unreached() -> Callable[[nn.Module], list[str]]:
    """A function: the parameters of a network for ten classes that the gradient of one step does not reach."""

    def names(model: nn.Module) -> list[str]:
        logits = model(torch.randn(2, 3, 64, 48))
        assert logits.shape == (2, 10)
        F.cross_entropy(logits, torch.tensor([1, 2])).backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        broken = {name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()}
        return sorted(broken | {name for name in gradients.keys() - broken if _is_idle(gradients[name])})

    return names


def _is_idle(gradient: torch.Tensor) -> bool:
    """Gains and biases may be without effect in single networks, weights may not."""
    return gradient.ndim > 1 and not gradient.any()


@pytest.fixture
def size() -> Callable[[ModelConfig], int]:
    """A function: the parameters of a network with a thousand classes."""

    def count(config: ModelConfig) -> int:
        with torch.device("meta"):
            model = build_model(config, 1000)
        return sum(parameter.numel() for parameter in model.parameters())

    return count


@pytest.fixture
def drawn_norms() -> Callable[[nn.Module], nn.Module]:
    """A function: the network in evaluation mode, with weights and statistics of batch norms that are not 1 and 0."""

    def drawn(model: nn.Module) -> nn.Module:
        for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
        return model.eval()

    return drawn
