"""What the network is asked for."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass
from tyro.conf import arg

from utils.config.strict import STRICT


@dataclass(frozen=True, config=STRICT)
class LossConfig:
    """What the network is asked for."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1), arg(aliases=["--smoothing"])] = 0.0
    """share of the target spread evenly over all classes (torch's definition)"""
    mixup: Annotated[float, Field(ge=0), arg(aliases=["--mixup-alpha"])] = 0.0
    """alpha of mixup's Beta(alpha, alpha); 0 is off"""
