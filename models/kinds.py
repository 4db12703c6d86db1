"""What each parameter of a network is: for weight decay, e-shifted L2, and optimizers that treat some differently."""

from torch import Tensor, nn

from models.layers.attention import (
    BottleneckAttention,
    ConvolutionalBlockAttention,
    EfficientChannelAttention,
    GlobalContext,
    PooledLinear,
    SpatialGroupEnhance,
    SqueezeExcitation,
    StyleRecalibration,
)
from models.layers.selective import SelectiveKernel
from models.layers.sharing import GlobalGate
from models.layers.split_attention import SplitAttention

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
GATES = (
    BottleneckAttention,
    ConvolutionalBlockAttention,
    EfficientChannelAttention,
    GlobalContext,
    GlobalGate,
    SpatialGroupEnhance,
    SqueezeExcitation,
    StyleRecalibration,
)
MIXERS = (SelectiveKernel, SplitAttention)  # ordinary convolutions, and attention in the layers that have these names
IN_MIXERS = ("fc1", "fc2")


def parameter_kinds(model: nn.Module, classes: int) -> dict[Tensor, frozenset[str]]:
    """Parameter -> its kinds: bias; norm, which any other of one dimension is; fc; conv, and depthwise of those; other,
    as embeddings of positions. With these, attention; and head for the classifier, the last layer with as many outputs
    as `classes`."""
    attended, head = _attention(model), _head(model, classes)
    found: dict[Tensor, frozenset[str]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            kinds = {_kind(module, name, parameter)}
            kinds |= {"depthwise"} if "conv" in kinds and parameter.shape[1] == 1 else set()
            kinds |= {"attention"} if parameter in attended else set()
            found[parameter] = frozenset(kinds | ({"head"} if module is head else set()))
    return found


def _kind(module: nn.Module, name: str, parameter: Tensor) -> str:
    if parameter.ndim <= 1:
        return "bias" if name == "bias" else "norm"
    if parameter.ndim == 2 or isinstance(module, PooledLinear):
        return "fc"
    return "conv" if isinstance(module, CONVOLUTIONS) else "other"


def _attention(model: nn.Module) -> set[Tensor]:
    inside = [module for module in model.modules() if isinstance(module, GATES)]
    for module in model.modules():
        if isinstance(module, MIXERS):
            inside += [getattr(module, name) for name in IN_MIXERS]
    return {parameter for module in inside for parameter in module.parameters()}


def _head(model: nn.Module, classes: int) -> nn.Module | None:
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return next((layer for layer in reversed(layers) if len(layer.weight) == classes), None)
