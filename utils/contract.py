"""What a recipe promised, held against what its run reached: green, amber or red.

A contract holds published numbers alone, mostly one of the last epoch. What a run should have reached before that epoch
nobody has published, so until then all that is said is whether it is there already.
"""

import sys

from utils.config import ContractConfig

PAINT = {"green": "\x1b[32m", "amber": "\x1b[33m", "red": "\x1b[31m"}
UNPAINTED = "\x1b[0m"


def promise(contract: ContractConfig, parameters: int) -> str:
    """What the contract of a run with so many parameters says, for before the first step."""
    points = ", ".join(f"{top1:g} % at epoch {epoch}" for epoch, top1 in contract.top1)
    kind = "best top-1 up to then" if contract.best_of_run else "top-1"
    told = f"contract   {kind} {points}, within {contract.tolerance:g} points"
    if contract.source:
        told += f" ({contract.source})"
    if contract.parameters is None:
        return told
    if contract.parameters == parameters:
        return f"{told}; {parameters:,} parameters, {paint('green')}"
    return f"{told}; {parameters:,} parameters, {paint('red')}: it says {contract.parameters:,}"


def judgement(contract: ContractConfig, epoch: int, top1: float, best: float) -> str:
    """What the contract says of a validation after `epoch` that found `top1`; `best` is the run's best so far."""
    reached = best if contract.best_of_run else top1
    due, expected = _due(contract, epoch)
    colour = colour_of(contract, epoch, reached)
    what = "best top-1" if contract.best_of_run else "top-1"
    told = f"contract   {paint(colour)}: {what} {reached:.2f} % after epoch {epoch}"
    if due > epoch:
        return f"{told}, {expected:g} % is due at epoch {due}"
    return f"{told}, {expected:g} % was expected ({reached - expected:+.2f})"


def colour_of(contract: ContractConfig, epoch: int, reached: float) -> str:
    """green: there, within the tolerance; amber: within twice of it, or not due yet; red: missed."""
    due, expected = _due(contract, epoch)
    missing = expected - reached
    if missing <= contract.tolerance:
        return "green"
    return "amber" if due > epoch or missing <= 2 * contract.tolerance else "red"


def _due(contract: ContractConfig, epoch: int) -> tuple[int, float]:
    """The epoch and the number that a validation after `epoch` is held to: the next, or the last."""
    return next((point for point in contract.top1 if point[0] >= epoch), contract.top1[-1])


def paint(colour: str) -> str:
    """The word for a colour, in that colour on a terminal."""
    return f"{PAINT[colour]}{colour}{UNPAINTED}" if sys.stdout.isatty() else colour
