"""Networks by name. A family is one file with a table of rows, and an entry in `FAMILIES`."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Protocol

from torch import nn

from models.alexnet import ALEXNETS
from models.backbone import backbone
from models.batch_norms import refuse_ghosts, set_batch_norms
from models.densenet import DENSENETS
from models.efficientnet import EFFICIENTNETS
from models.fairnas import FAIRNASES
from models.freezing import freeze
from models.ghostnet import GHOSTNETS
from models.lambdanet import LAMBDANETS
from models.layers import Layers
from models.layers.dropping import DropBlockRamp
from models.layers.gain import gain_parameters, set_data_gains, wants_data_gains
from models.layers.kernels import METHODS, kept_kernels, standardize_together
from models.layers.sync import SyncBatchNorm2d
from models.mobilenet import MOBILENETS
from models.octave import OCTAVES
from models.outside import is_outside, outside_network, torchvision_names
from models.proxyless import PROXYLESSES
from models.regnet import REGNETS
from models.resnest import RESNESTS
from models.resnet import RESNETS
from models.shufflenet import SHUFFLENETS
from models.vgg import VGGS
from utils.config.model import ModelConfig
from utils.errors import UsageError
from utils.registry import choose

__all__ = [
    "FAMILIES",
    "DropBlockRamp",
    "build_model",
    "gain_parameters",
    "image_size",
    "kept_kernels",
    "model_names",
    "refuse_ghosts",
    "refuse_unsynced",
    "set_data_gains",
    "wants_data_gains",
]


class Network(Protocol):
    """A row of a family's table. `settings`: the fields of ModelConfig that it reads and not every network does.

    A row may also have `image_size`, in pixels, where it is not 224, and `paper`, an arXiv number.
    """

    settings: tuple[str, ...]

    def build(self, layers: Layers, num_classes: int) -> nn.Module: ...


# A family's name -> its table.
FAMILIES: dict[str, dict[str, Network]] = {
    "ResNet": RESNETS,
    "ResNeSt": RESNESTS,
    "Octave ResNet": OCTAVES,
    "LambdaNetwork": LAMBDANETS,
    "RegNet": REGNETS,
    "DenseNet": DENSENETS,
    "ShuffleNet": SHUFFLENETS,
    "VGG": VGGS,
    "AlexNet": ALEXNETS,
    "MobileNet": MOBILENETS,
    "EfficientNet": EFFICIENTNETS,
    "FairNAS": FAIRNASES,
    "ProxylessNAS": PROXYLESSES,
    "GhostNet": GHOSTNETS,
}
NETWORKS = {name: row for rows in FAMILIES.values() for name, row in rows.items()}
IMAGE_SIZE = 224  # pixels, of a network whose row has no `image_size` of its own

# Fields of ModelConfig that every network reads, or for which `build_model` itself sees whether they are of use.
ALWAYS_USED = {"model", "num_classes", "zero_gamma", "frozen_stages", "freeze_norm"}
ALWAYS_USED |= {"bn_momentum", "bn_eps", "ghost_batch"}


def image_size(name: str) -> int:
    """Side of the images, in pixels, that a network was published for."""
    if is_outside(name):
        return outside_network(name).image_size
    return getattr(NETWORKS[name], "image_size", IMAGE_SIZE)


def model_names() -> list[str]:
    """The names of our networks; --model also takes those of `models.outside`."""
    return sorted(NETWORKS)


def build_model(config: ModelConfig, num_classes: int, out_indices: Sequence[int] | None = None) -> nn.Module:
    """The network that `config` describes, with fresh weights. UsageError if a name or a combination is wrong.

    With `out_indices` it has no head and gives the outputs of these stages (0 is the stem): `models.backbone.Backbone`.
    """
    if is_outside(config.model):
        model = _outside(config, num_classes)
        return model if out_indices is None else backbone(model, config.model, out_indices)
    network = _ours(config.model)
    layers = Layers(config)
    model = network.build(layers, num_classes)
    layers.set_drop_paths()
    set_batch_norms(model, config)
    if standardize_together(model, METHODS[config.kernels]()):
        layers.used.add("kernels")
    _refuse_unused(config, ALWAYS_USED.union(network.settings, layers.row.settings, layers.used))
    if config.zero_gamma and not layers.zero_gammas:
        raise UsageError(
            f"--zero-gamma: {config.model} with --norm {config.norm} and --block-order {config.block_order} has no "
            "residual branch that ends with a gain; leave it out, or choose another norm or order"
        )
    freeze(model, config)
    return model if out_indices is None else backbone(model, config.model, out_indices)


def _ours(name: str) -> Network:
    if name not in NETWORKS and name in torchvision_names():
        raise UsageError(f"--model {name} is not among our networks; did you mean torchvision's, tv_{name}?")
    return choose(NETWORKS, name, "--model")


def _outside(config: ModelConfig, num_classes: int) -> nn.Module:
    network = outside_network(config.model)
    _refuse_unused(config, {"model", "num_classes"})
    return network.build(num_classes)


def refuse_unsynced(model: nn.Module, shards: int, processes: int) -> None:
    """UsageError if batch norm is to be over all shards, but a process carries several of them one after the other."""
    if shards != processes and any(isinstance(module, SyncBatchNorm2d) for module in model.modules()):
        raise UsageError(
            f"--norm syncbn needs as many processes as shards, found {processes} and {shards}; "
            f"start {shards} processes, or use --norm bn"
        )


def _refuse_unused(config: ModelConfig, used: set[str]) -> None:
    """A setting that was changed and that nothing reads is a mistake, not a wish."""
    for field in fields(ModelConfig):
        value = getattr(config, field.name)
        if field.name not in used and value != field.default:
            flag = f"--{field.name.replace('_', '-')} {value}"
            plain = field.name == "norm" or is_outside(config.model)
            where = config.model if plain else f"{config.model} with --norm {config.norm}"
            raise UsageError(f"{flag} has no effect on {where}; leave it out")
