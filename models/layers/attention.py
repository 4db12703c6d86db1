"""Attentions at the end of a residual branch: each weighs what the branch computed."""

from torch import Tensor, nn

from models.layers.activation import ACTIVATIONS


class SqueezeExcitation(nn.Module):
    """Weighs channels by what their means say: x * gate(fc2(act(fc1(mean)))). Hu et al., arXiv 1709.01507.

    x: (n, channels, h, w). The two layers are 1x1 convolutions with biases, as torchvision has them.
    """

    def __init__(self, channels: int, hidden: int, act: str = "relu", gate: str = "sigmoid") -> None:
        super().__init__()
        self.fc1, self.act = nn.Conv2d(channels, hidden, 1), ACTIVATIONS[act]()
        self.fc2, self.gate = nn.Conv2d(hidden, channels, 1), ACTIVATIONS[gate]()

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(2, 3), keepdim=True)  # (n, c, 1, 1)
        return x * self.gate(self.fc2(self.act(self.fc1(mean))))
