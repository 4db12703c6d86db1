"""torchvision's trained weights: a file in torch.hub's cache, or fetched into it."""

import fcntl
import re
from pathlib import Path
from urllib.request import Request, urlopen

import torch

from models import NETWORKS
from models.outside import TORCHVISION, torchvision_names, torchvision_weights
from utils.errors import EnvironmentFault, UsageError
from utils.registry import nearest

SUFFIX = "_torchvision"  # of rows of ours that are torchvision's where another has the plain name
TIMEOUT = 10  # seconds for the server's first word; a machine without a network is told so at once
CHECKSUM = re.compile(r"-([0-9a-f]{8,})\.")  # the start of the sha256 sum, in the file's name


def pretrained_file(network: str) -> Path:
    """The file of torchvision's weights for our network of that name, or for `tv_...`.

    UsageError if torchvision has no such network; EnvironmentFault if the file is neither in the cache nor to be had.
    """
    url = torchvision_weights(_torchvision_name(network)).url
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / url.rsplit("/", 1)[1]
    if path.exists():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _fetch(url, path)
    except (OSError, RuntimeError) as error:  # RuntimeError: a wrong checksum
        raise EnvironmentFault(
            f"--pretrained: {url} cannot be fetched ({error}), and there is no {path}; put the file there, or give one "
            "with --init-from FILE"
        ) from error
    return path


def _torchvision_name(network: str) -> str:
    known = torchvision_names()
    name = network.removeprefix(TORCHVISION).removesuffix(SUFFIX)
    if name not in known:
        raise UsageError(
            f"--pretrained: torchvision has no weights for {network}, nearest are those for {nearest(name, known)}; "
            "name a file of weights with --init-from FILE"
        )
    if f"{network}{SUFFIX}" in NETWORKS:
        raise UsageError(f"--pretrained: torchvision's weights are for --model {network}{SUFFIX}, not {network}")
    return name


def _fetch(url: str, path: Path) -> None:
    """Download once a machine: other ranks wait for the first, and find the file."""
    with open(path.with_name(f"{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        urlopen(Request(url, method="HEAD"), timeout=TIMEOUT).close()  # torch.hub would wait for ever
        torch.hub.download_url_to_file(url, str(path), CHECKSUM.search(path.name)[1])
