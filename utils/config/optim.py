"""How weights move."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from tyro.conf import arg

from utils.config.strict import STRICT

NotNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, config=STRICT)
class OptimConfig:
    """How weights move."""

    opt: Literal["sgd"] = "sgd"
    """optimizer"""
    lr: Annotated[float | None, Field(gt=0)] = None
    """learning rate at the global batch; not together with --lr-base"""
    lr_base: Annotated[float | None, Field(gt=0)] = None
    """learning rate per 256 images, scaled with the global batch; 0.1 if neither is given"""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """momentum of SGD"""
    nesterov: bool = False
    """Nesterov momentum"""
    weight_decay: Annotated[NotNegative, arg(aliases=["--wd"])] = 1e-4
    """L2 penalty on weights"""
    no_wd_bias: Annotated[bool, arg(aliases=["--no-wd", "--nowd-bn"])] = False
    """no weight decay on biases and on gains of norms: on whatever has one dimension"""
    alpha_wd: NotNegative = 0.0
    """weight decay on the gains of pws"""
    clip_grad: Annotated[float | None, Field(gt=0), arg(aliases=["--clip-grad-norm"])] = None
    """largest norm of the gradient; longer ones are scaled down to it"""
