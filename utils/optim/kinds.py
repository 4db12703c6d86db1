"""What a parameter is, for what treats parameters differently; `models.kinds` says it of a network."""

from collections.abc import Mapping

from torch import Tensor

# Parameter -> some of: norm bias fc conv other depthwise attention head. Where a network says nothing, shapes decide.
Kinds = Mapping[Tensor, frozenset[str]]
NOT_A_FILTER = frozenset({"fc", "other", "depthwise", "attention", "head"})


def kinds_of(parameter: Tensor, kinds: Kinds) -> frozenset[str]:
    """The kinds of one parameter."""
    by_shape = "norm" if parameter.ndim <= 1 else "fc" if parameter.ndim == 2 else "conv"
    return kinds.get(parameter, frozenset({by_shape}))


def is_filter(parameter: Tensor, kinds: Kinds) -> bool:
    """Whether it holds filters of an ordinary convolution: no classifier, no attention, nothing depthwise."""
    return parameter.ndim > 2 and parameter.shape[1] > 1 and not kinds_of(parameter, kinds) & NOT_A_FILTER
