"""What the files of other families of networks call our tensors: a row for each family, in a file of its own."""

import re

Rows = tuple[tuple[str, str], ...]  # (pattern, replacement), applied one after the other to every name

# (pattern of our network's name, rows); the first that matches counts.
FAMILIES: tuple[tuple[str, Rows], ...] = ()


def rows_for(network: str) -> Rows:
    """The rows for files of the network that we call `network`; none where names agree."""
    return next((rows for pattern, rows in FAMILIES if re.fullmatch(pattern, network)), ())
