"""Shapes that norms and attentions share: groups that divide the channels, columns, numbers of positions."""

from torch import Tensor

from utils.errors import UsageError


def refuse_groups(flag: str, groups: int, channels: int, network: str) -> None:
    """UsageError, naming the flag and what would do, unless `groups` divides `channels`."""
    if channels % groups:
        divisors = ", ".join(str(number) for number in range(1, channels + 1) if channels % number == 0)
        raise UsageError(
            f"{flag} {groups} does not divide the {channels} channels of a layer of {network}; use one of {divisors}"
        )


def as_column(values: Tensor) -> Tensor:
    """values: (c,) -> (1, c, 1, 1), beside images."""
    return values.view(1, -1, 1, 1)


def fewer_than_positions(x: Tensor) -> int:
    """The correction of a sample variance over positions: 1, or 0 where x (n, c, 1, 1) has one position."""
    return min(1, x.shape[2] * x.shape[3] - 1)
