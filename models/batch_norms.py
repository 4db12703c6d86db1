"""What the user sets of the batch norms of a whole network: momentum, eps, and ghost batches."""

from collections.abc import Iterator

from torch import nn

from models.layers.ghost import GhostBatchNorm2d
from utils.config.model import ModelConfig
from utils.errors import UsageError


def set_batch_norms(model: nn.Module, config: ModelConfig) -> None:
    """Carry out --bn-momentum, --bn-eps and --ghost-batch. UsageError where the network has nothing of the kind."""
    chosen = {"momentum": config.bn_momentum, "eps": config.bn_eps}
    for name, value in ((name, value) for name, value in chosen.items() if value is not None):
        norms = list(_batch_norms(model))
        if not norms:
            raise UsageError(_refusal(f"--bn-{name} {value:g}", config, "keeps no statistics of batches"))
        for norm in norms:
            setattr(norm, name, value)
    if config.ghost_batch is not None:
        _make_ghosts(model, config)


def refuse_ghosts(config: ModelConfig, batch_size: int) -> None:
    """UsageError unless a shard of `batch_size` images is two or more ghost batches."""
    ghost = config.ghost_batch
    if ghost is not None and (batch_size % ghost or ghost == batch_size):
        wanted = "use a part of it, such as 32, or leave it out"
        raise UsageError(f"--ghost-batch {ghost} does not divide the {batch_size} images of --batch-size; {wanted}")


def _batch_norms(model: nn.Module) -> Iterator[nn.Module]:
    """Whatever moves running statistics by a momentum: batch norms, switchable ones, EvoNorm B0."""
    for module in model.modules():
        if getattr(module, "running_var", None) is not None and hasattr(module, "momentum"):
            yield module


def _make_ghosts(model: nn.Module, config: ModelConfig) -> None:
    norms = [module for module in model.modules() if type(module) is nn.BatchNorm2d]
    if not norms:
        raise UsageError(_refusal(f"--ghost-batch {config.ghost_batch}", config, "has no plain batch norm"))
    for norm in norms:
        norm.__class__, norm.group = GhostBatchNorm2d, config.ghost_batch


def _refusal(wish: str, config: ModelConfig, reason: str) -> str:
    return f"{wish} has no effect: {config.model} with --norm {config.norm} {reason}; leave it out"
