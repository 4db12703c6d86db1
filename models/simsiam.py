"""SimSiam: a network learns from two views of each image, without labels (Chen and He, arXiv 2011.10566).

Features are projected, and from the projection of one view that of the other is predicted. No gradient flows through
what is to be predicted: without that all features become the same.
"""

from torch import Tensor, nn
from torch.nn import functional as F

PROJECTED, HIDDEN = 2048, 512  # numbers of a projection, and inside the predictor


def projection_head(c_in: int, channels: int = PROJECTED) -> nn.Sequential:
    """Features (n, c_in) -> projections (n, channels): 3 linear layers, each with batch norm; no ReLU at the end."""
    return nn.Sequential(
        *_linear_norm(c_in, channels),
        nn.ReLU(),
        *_linear_norm(channels, channels),
        nn.ReLU(),
        *_linear_norm(channels, channels),
    )


def prediction_head(channels: int = PROJECTED, hidden: int = HIDDEN) -> nn.Sequential:
    """Projections (n, channels) -> predictions (n, channels), through a bottleneck; no norm at the end."""
    return nn.Sequential(*_linear_norm(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))


def _linear_norm(c_in: int, c_out: int) -> tuple[nn.Module, nn.Module]:
    return nn.Linear(c_in, c_out, bias=False), nn.BatchNorm1d(c_out)  # the norm's bias stands for the layer's


def negative_cosine(predictions: Tensor, projections: Tensor) -> Tensor:
    """Minus the mean cosine between each prediction and its projection, (n, c) each, which is taken as given."""
    return -F.cosine_similarity(predictions, projections.detach(), dim=1).mean()


class SimSiam(nn.Module):
    """Two views (n, 3, h, w) of the same images -> the loss, in [-1, 1].

    `network` gives features (n, c_in), as one does whose classifier is an `nn.Identity`.
    """

    def __init__(self, network: nn.Module, c_in: int, channels: int = PROJECTED, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.network = network
        self.projection = projection_head(c_in, channels)
        self.prediction = prediction_head(channels, hidden)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        # One after the other: batch norms see one view at a time, as in the paper.
        projections = [self.projection(self.network(view)) for view in (first, second)]
        predictions = [self.prediction(projection) for projection in projections]
        return (negative_cosine(predictions[0], projections[1]) + negative_cosine(predictions[1], projections[0])) / 2
