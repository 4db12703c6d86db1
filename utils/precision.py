"""The arithmetic of a step: which type computes, how fp16 is scaled, and what happens to a step that is not finite.

A step whose loss or gradient is not finite is skipped on the device, without asking it: no weight moves, running
statistics and averages stay, and it is counted. Many in a row end the run: they would not stop by themselves (a
GradScaler halves its scale to zero without a word, and the first good batch after that writes NaN into every weight).
"""

import math
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from utils.config import TrainingConfig
from utils.errors import EnvironmentFault, NumericsError, UsageError

COMPUTE = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SKIPS_IN_A_ROW = 20  # more than the halvings from 65536 that a healthy fp16 run needs
SMALLEST_SCALE = 2.0**-14
Found = Mapping[str, float]


class Precision:
    """Autocast, loss scaling and the guard against steps that are not finite, for one of --precision."""

    def __init__(self, training: TrainingConfig, device: torch.device):
        self.name, self.device = training.precision, device
        self.storage = torch.float64 if self.name == "fp64" else torch.float32  # of weights and images
        self.static_scale = training.loss_scale  # None: it adapts
        self.scaler = _scaler(self.static_scale, device, enabled=self.name == "fp16")
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.skipped_in_a_row = torch.zeros((), dtype=torch.int64, device=device)
        _check(self.name, device)
        allow_tf32(self.name == "tf32")

    def autocast(self) -> AbstractContextManager[None]:
        """The context of a forward pass."""
        compute = COMPUTE.get(self.name, torch.float32)
        return torch.autocast(self.device.type, compute, enabled=compute is not torch.float32)

    def backward(self, loss: Tensor, share: float) -> None:
        """Add the gradients of share * loss. A loss that is not finite makes all of them NaN, so that no rank misses
        it: an infinite loss may have zero gradients."""
        seed = torch.where(loss.isfinite(), share, torch.nan).to(loss.dtype)
        self.scaler.scale(loss).backward(seed)

    def gradient_norm(self, optimizer: torch.optim.Optimizer) -> Tensor:
        """Take the scale out of the gradients; their L2 norm, not finite if any of them is not."""
        if self.scaler.is_enabled():
            self.scaler.unscale_(optimizer)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def step(self, optimizer: torch.optim.Optimizer, finite: Tensor) -> None:
        """One step of the optimizer where `finite` is true, none where it is not, without asking the device."""
        optimizer.found_inf = (~finite).float()  # fused optimizers read this attribute on the device
        optimizer.step()
        if self.scaler.is_enabled():
            self.scaler.update(self.static_scale)
        self.skipped += ~finite
        self.skipped_in_a_row += 1
        self.skipped_in_a_row *= ~finite

    def numbers(self) -> dict[str, Tensor]:
        """What `check` and `values` go by, on the device."""
        counts = {"skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}
        scale = self.scaler._get_scale_async() if self.scaler.is_enabled() else None  # get_scale waits for the device
        return counts if scale is None else {**counts, "scale": scale}

    def check(self, step: int, found: Found | None = None) -> None:
        """NumericsError if steps have been skipped for too long up to `step`, by the `numbers` of then. Without them
        it waits for the device."""
        found = self._read() if found is None else found
        in_a_row = int(found["skipped_in_a_row"])
        if in_a_row >= SKIPS_IN_A_ROW:
            raise NumericsError(
                f"loss or gradient was not finite in {in_a_row} steps in a row up to step {step}; "
                f"the last checkpoint is good: resume it with a smaller --lr, {self._remedy}, or "
                "--precision bf16 or fp32"
            )
        scale = found.get("scale", math.inf)
        if not self.static_scale and scale < SMALLEST_SCALE:
            raise NumericsError(f"the fp16 loss scale fell to {scale:.3g} at step {step}; use --precision bf16 or fp32")

    @property
    def _remedy(self) -> str:
        return f"a --loss-scale below {self.static_scale:g}" if self.static_scale else "--clip-grad"

    def values(self, found: Found | None = None) -> dict[str, float]:
        """What the log tells of its `numbers`. Without them it waits for the device."""
        found = self._read() if found is None else found
        scale = {"amp/scale": found["scale"]} if "scale" in found else {}
        return {"amp/skipped_steps": int(found["skipped"]), **scale}

    def _read(self) -> Found:
        fresh = {"scale": self.scaler.get_scale()} if self.scaler.is_enabled() else {}  # also before the first step
        return {**fresh, **{name: number.item() for name, number in self.numbers().items()}}

    def state_dict(self) -> dict[str, float | int]:
        """Plain numbers: the scale of fp16 and the counts of skipped steps."""
        counts = {"skipped": int(self.skipped), "skipped_in_a_row": int(self.skipped_in_a_row)}
        return counts | {f"scaler_{name}": value for name, value in self.scaler.state_dict().items()}

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        self.skipped.fill_(state["skipped"])
        self.skipped_in_a_row.fill_(state["skipped_in_a_row"])
        scaler = {name.removeprefix("scaler_"): value for name, value in state.items() if name.startswith("scaler_")}
        if self.scaler.is_enabled() and scaler:
            fixed = {"scale": self.static_scale} if self.static_scale else {}  # one changed by leave is the new one
            self.scaler.load_state_dict(scaler | fixed)


def allow_tf32(allowed: bool) -> None:
    """Whether a GPU may compute float32 products in TF32; if not, they are IEEE's.

    By torch's older switches: its compiler reads them, and raises where they were passed over for `fp32_precision`
    (torch 2.15: `cudnn.allow_tf32` after "ieee", `matmul.allow_tf32` after "tf32").
    """
    warnings.filterwarnings("ignore", "Please use the new API settings to control TF32")  # torch 2.9 to 2.11 say so
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def _scaler(static_scale: float | None, device: torch.device, enabled: bool) -> torch.amp.GradScaler:
    initial = {"init_scale": static_scale} if static_scale else {}
    return torch.amp.GradScaler(device.type, enabled=enabled, **initial)


def refuse_unscaled(training: TrainingConfig) -> None:
    """UsageError for a scale of the loss where there is none."""
    if training.loss_scale and training.precision != "fp16":
        told = f"--loss-scale {training.loss_scale:g}"
        raise UsageError(f"{told} has no effect with --precision {training.precision}; only fp16 scales its loss")


def _check(name: str, device: torch.device) -> None:
    if name == "tf32" and not (device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8):
        raise EnvironmentFault(f"--precision tf32 needs an NVIDIA GPU of Ampere or later, not {device.type}; use fp32")
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise EnvironmentFault("--precision bf16 is not supported by this GPU; use fp16")
