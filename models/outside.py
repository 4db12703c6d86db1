"""The networks of torchvision as `tv_NAME` and, where it is installed, of timm as `timm_NAME`, as they are there.

No setting of ours changes them but the number of classes. What has one dimension is a gain or a bias, as in ours, with
these exceptions in torchvision, which decay like weights: layer_scale of ConvNeXt (c, 1, 1), logit_scale of Swin V2
(heads, 1, 1), class tokens, and tables of positions.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models
from torchvision.models import WeightsEnum

from utils.errors import EnvironmentFault, UsageError
from utils.registry import choose, nearest

TORCHVISION, TIMM = "tv_", "timm_"

# Auxiliary classifiers would make two or three outputs of one. Their weights were trained on images that the network
# itself normalizes otherwise.
_INCEPTION = {"aux_logits": False, "init_weights": True, "transform_input": True}
OPTIONS = {"googlenet": _INCEPTION, "inception_v3": _INCEPTION}
AUXILIARY = re.compile(r"(aux[12]|AuxLogits)\.")  # their tensors in torchvision's files of these two

FIXED_SIZE = re.compile(r"vit_|maxvit_")  # torchvision's that take images of one size alone


@dataclass(frozen=True)
class OutsideNetwork:
    """A row that `make`, a function of the number of classes, builds. `image_size` was the published one, in pixels."""

    name: str
    make: Callable[[int], nn.Module]
    image_size: int
    has_fixed_size: bool

    def build(self, num_classes: int) -> nn.Module:
        model = self._made(num_classes)
        if self.has_fixed_size:
            model.register_forward_pre_hook(self._refuse_size)
        return model

    def _made(self, num_classes: int) -> nn.Module:
        if torch.get_default_device().type != "meta":
            return self.make(num_classes)
        with suppress(RuntimeError):
            return self.make(num_classes)
        # RegNets, and others, compute their widths or rates with tensors, which must have values.
        with torch.device("cpu"):
            return self.make(num_classes).to("meta")

    def _refuse_size(self, model: nn.Module, inputs: tuple[Tensor]) -> None:
        height, width = inputs[0].shape[-2:]
        if (height, width) != (self.image_size, self.image_size):
            raise UsageError(
                f"{self.name} takes images of {self.image_size} px, found {height} x {width}; set --img-size and "
                f"--val-crop to {self.image_size}"
            )


def is_outside(name: str) -> bool:
    """Whether --model NAME means a network that is not ours."""
    return name.startswith((TORCHVISION, TIMM))


def outside_network(name: str) -> OutsideNetwork:
    """The network called `tv_...` or `timm_...`. UsageError if there is none, EnvironmentFault if timm is absent."""
    return _torchvision_network(name) if name.startswith(TORCHVISION) else _timm_network(name)


def torchvision_names() -> list[str]:
    """The names after `tv_`: torchvision's classifiers."""
    return sorted(torchvision_models.list_models(module=torchvision_models))


def timm_names() -> list[str]:
    """The names after `timm_`. EnvironmentFault if timm is absent."""
    return _timm("--model timm_NAME").list_models()


def _torchvision_network(name: str) -> OutsideNetwork:
    theirs = name.removeprefix(TORCHVISION)
    choose({TORCHVISION + known: known for known in torchvision_names()}, name, "--model")

    def make(num_classes: int) -> nn.Module:
        return torchvision_models.get_model(theirs, weights=None, num_classes=num_classes, **OPTIONS.get(theirs, {}))

    return OutsideNetwork(name, make, _crop(torchvision_weights(theirs)), bool(FIXED_SIZE.match(theirs)))


def torchvision_weights(theirs: str) -> WeightsEnum:
    """The weights that torchvision calls DEFAULT; where there are others for smaller images, as built here, these."""
    weights = torchvision_models.get_model_weights(theirs)
    return min((weights.DEFAULT, *weights), key=_crop)


def _crop(weights: WeightsEnum) -> int:
    return weights.transforms.keywords["crop_size"]


def _timm_network(name: str) -> OutsideNetwork:
    timm, theirs = _timm(f"--model {name}"), name.removeprefix(TIMM)
    known = timm.list_models()
    if theirs not in known:
        guess = nearest(theirs, known)
        hint = f"did you mean {TIMM}{guess}? " if guess else ""
        raise UsageError(
            f"--model {name} is not known; {hint}timm.list_models() lists its {len(known)} names, without .tags"
        )
    config = timm.models.get_pretrained_cfg(theirs, allow_unregistered=False)

    def make(num_classes: int) -> nn.Module:
        return timm.create_model(theirs, num_classes=num_classes)

    return OutsideNetwork(name, make, config.input_size[-1], config.fixed_input_size)


def _timm(wish: str) -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise EnvironmentFault(f"{wish} needs the package timm; pip install timm, or '.[bench]'") from error
    return timm
