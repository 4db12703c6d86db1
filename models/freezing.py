"""What of a network is not trained: its first stages, or the running statistics of its norms.

A frozen module stays in evaluation, whatever `train` says to the network around it, in every copy of it too; a frozen
stage also takes no gradients.
"""

from functools import cache

from torch import nn

from models.backbone import levels_of, steps_until
from utils.config.model import ModelConfig
from utils.errors import UsageError


class InEvaluation(nn.Module):
    """Mixed into the class of a module: what keeps it in evaluation."""

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)


@cache
def _in_evaluation(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Frozen{kind.__name__}", (InEvaluation, kind), {})


def keep_in_evaluation(module: nn.Module) -> None:
    """From now on `module` and all in it are in evaluation."""
    if not isinstance(module, InEvaluation):
        module.__class__ = _in_evaluation(type(module))
    module.train()


def freeze(model: nn.Module, config: ModelConfig) -> None:
    """Carry out --frozen-stages and --freeze-norm. UsageError where the network has nothing of the kind."""
    if config.frozen_stages is not None:
        _freeze_stages(model, config)
    if config.freeze_norm:
        norms = [module for module in model.modules() if _has_running_statistics(module)]
        if not norms:
            wanted = f"{config.model} with --norm {config.norm} keeps no statistics"
            raise UsageError(f"--freeze-norm has no effect: {wanted}; leave it out")
        for norm in norms:
            keep_in_evaluation(norm)


def _freeze_stages(model: nn.Module, config: ModelConfig) -> None:
    levels = levels_of(model, f"--frozen-stages {config.frozen_stages}", config.model)
    if config.frozen_stages >= len(levels):
        raise UsageError(f"--frozen-stages {config.frozen_stages}: {config.model} has {len(levels) - 1} stages")
    for name in steps_until(model, levels[config.frozen_stages]):
        module = model.get_submodule(name).requires_grad_(False)
        keep_in_evaluation(module)


def _has_running_statistics(module: nn.Module) -> bool:
    return any(name.startswith("running_") for name, _ in module.named_buffers(recurse=False))
