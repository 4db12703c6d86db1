"""What the files of other families of networks call our tensors: a row for each family, in a file of its own."""

import re
from collections.abc import Iterable

from models.interop.densenet import CIFAR_DENSENET, DENSENET
from models.interop.lambdanet import LAMBDANET
from models.interop.mobile import MOBILE
from models.interop.octave import OCTAVE_DIALECTS
from models.interop.regnet import REGNET
from models.interop.resnest import RESNEST
from models.interop.resnet import RESNET, SELECTIVE, WIDE, counted_pools
from models.interop.shufflenet import SHUFFLENET

Rows = tuple[tuple[str, str], ...]  # (pattern, replacement), applied one after the other to every name

# (pattern of our network's name, rows); the first that matches counts.
FAMILIES: tuple[tuple[str, Rows], ...] = (
    (r"regnet_.*", REGNET),
    *MOBILE,
    (r"(tv_)?densenet.*", DENSENET),
    (r"cifar_densenet.*", CIFAR_DENSENET),
    (r"shufflenet_v2_.*", SHUFFLENET),
    (r"|((wide_|pre)?resne(t|xt)\d|wrn\d).*", RESNET),  # and files of networks without a name
    (r"resnest.*", RESNEST),
    (r"lambda_resnet.*", LAMBDANET),
)


def rows_for(network: str) -> Rows:
    """The rows for files of the network that we call `network`; none where names agree."""
    return next((rows for pattern, rows in FAMILIES if re.fullmatch(pattern, network)), ())


def _listed_resnet(first_stage: int) -> Rows:
    stages = tuple((rf"^feature\.{first_stage + i}\.", f"layer{i + 1}.") for i in range(4))
    return ((r"^feature\.0\.", "conv1."), (r"^feature\.1\.", "bn1."), *stages)


# What is told by a file's own names: (pattern of a name that it has, rows); the first that some name matches counts.
# The WN ancestor's networks are lists of torchvision's layers, with the pooling of the stem or without (seeds.md 7).
DIALECTS: tuple[tuple[str, Rows], ...] = (
    (r"(module\.)?feature\.7\.", _listed_resnet(first_stage=4)),
    (r"(module\.)?feature\.0\.", _listed_resnet(first_stage=3)),
    (r"(module\.)?layer1\.0\.conv2g\.", SELECTIVE),
    (r"(module\.)?block1\.layer\.", WIDE),
    (r"(module\.)?layer1\.0\.downsample\.2\.", counted_pools(first_stage=1)),
    (r"(module\.)?(backbone\.)?layer2\.0\.downsample\.(1\.alpha|2\.)", counted_pools(first_stage=2)),
    *OCTAVE_DIALECTS,
)


def dialect_of(names: Iterable[str]) -> Rows:
    """The rows for a file with these names; none if nothing in them is special."""
    names = list(names)
    return next((rows for pattern, rows in DIALECTS if any(re.match(pattern, name) for name in names)), ())
