"""What a recipe promises."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass
from tyro.conf import Fixed, Suppress

from utils.config.strict import STRICT

Percent = Annotated[float, Field(ge=0, le=100)]
Epoch = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=STRICT)
class ContractConfig:
    """What a recipe promises: published numbers alone. It has no flags, and changes nothing but what a run tells."""

    top1: Annotated[tuple[tuple[Epoch, Percent], ...], Fixed, Suppress] = ()
    """(epoch, top-1 in percent) as published, epochs ascending"""
    tolerance: Annotated[float, Field(ge=0), Fixed, Suppress] = 0.5
    """percent points below a number within which it counts as reached"""
    best_of_run: Annotated[bool, Fixed, Suppress] = False
    """the published numbers are the best of all validations, not the last one's"""
    parameters: Annotated[int | None, Field(ge=1), Fixed, Suppress] = None
    """parameters of the network, as published or as counted on the ancestor's own code"""
    source: Annotated[str, Fixed, Suppress] = ""
    """who published the numbers"""
