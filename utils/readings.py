"""Numbers of the device, read without a wait for it: on a GPU when the next ones are asked for."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Found = dict[str, float]


class Readings:
    """One reading is under way at most. `late`: it is delivered when the next one is asked for, or at `flush`."""

    def __init__(self, late: bool):
        self.late = late
        self.under_way: Reading | None = None

    def ask(self, numbers: Mapping[str, Tensor], deliver: Callable[[Found], None]) -> None:
        """`deliver` gets these numbers, each a tensor of one element: now, or later as they are now."""
        asked = Reading(numbers, deliver, self.late)
        self.flush()
        self.under_way = asked
        if not self.late:
            self.flush()

    def flush(self) -> None:
        """Deliver what is under way, waiting for it if it is not here yet."""
        reading, self.under_way = self.under_way, None
        if reading:
            reading.deliver()


class Reading:
    """Numbers on their way to the host: all in one copy, into memory that the device writes to by itself."""

    def __init__(self, numbers: Mapping[str, Tensor], deliver: Callable[[Found], None], late: bool):
        self.names, self.deliver_to = list(numbers), deliver
        self.numbers = torch.stack([number.detach().double().reshape(()) for number in numbers.values()])
        self.arrived: torch.cuda.Event | None = None
        if late:
            self.numbers = pinned(self.numbers).copy_(self.numbers, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record()

    def deliver(self) -> None:
        if self.arrived:
            self.arrived.synchronize()
        self.deliver_to(dict(zip(self.names, self.numbers.tolist(), strict=True)))


def pinned(like: Tensor) -> Tensor:
    """Memory of the host for a tensor, which the device can write to by itself."""
    return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)
