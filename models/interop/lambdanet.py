"""Lambda ResNets in ModelZoo.pytorch's files, whose position filters are three-dimensional."""

from torch import Tensor

LAMBDANET = ((r"(?<![^.])pos_conv\.", "positions.conv."), (r"(?<![^.])pos_emb$", "positions.embedding"))


def _plane(weight: Tensor) -> Tensor:
    return weight.squeeze(2) if weight.ndim == 5 else weight  # (k, 1, 1, r, r), over channels one by one


def _without_depth(embedding: Tensor) -> Tensor:
    return embedding.squeeze(3) if embedding.ndim == 4 else embedding  # (m, m, k, 1), of an intra-depth of 1


# As `TENSORS` of models.interop, which these are part of.
LAMBDA_TENSORS = (
    (r"(?<![^.])positions\.conv\.weight$", _plane),
    (r"(?<![^.])positions\.embedding$", _without_depth),
)
