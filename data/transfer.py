"""The way of a batch to the device: out of pinned memory, in a stream of its own, beside what the device computes.

The host waits for nothing in a step, so it asks for a batch while the device is still busy with the step before, and
the copy runs beside that step: one batch ahead. Only the first kernel that reads a batch waits for its copy. On a CPU
there is no way to go. What is here for a GPU has not run: where it was written there was none.
"""

import torch
from torch import Tensor


class Transfer:
    """Brings tensors to a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, tensor: Tensor) -> Tensor:
        """The tensor on the device; what is there already stays."""
        if self._stream is None or tensor.is_cuda:
            return tensor.to(self.device, non_blocking=True)
        # From other memory a copy would make the host wait. The pinned block is not used again before it was copied.
        pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
        with torch.cuda.stream(self._stream):
            there = pinned.to(self.device, non_blocking=True)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._stream)
        there.record_stream(computing)  # or its memory could be given away while it is still read
        return there
