"""Golden networks: parameters, multiply-adds, mapping of the weights, and logits of `models/*.json`."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator, Philox
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.interop import load_weights, our_name, unwrap
from models.layers.gain import set_data_gains
from scripts.golden.comparing import Check, absent, exact
from scripts.golden.networks import build_network, our_network

FLOAT64_TOLERANCE = 1e-9  # of a sample's largest logit
FLOAT32_FACTOR = 10  # times the noise of float32, of the standard deviation of the logits
# Noise of float32, in standard deviations, with which nothing is left of the logits. Such a network makes of a rounding
# in float64 too more than the ninth digit: of ResNeSt-50's calibrated logits 4e-9 to 7e-8, in three draws.
CHAOS = 1.0
ROUNDING, DRAWS, ROUNDING_FACTOR = 2.0**-53, 3, 10  # of the images; the tolerance is that many times what it makes
GAIN_TOLERANCE = 1e-5  # the ancestors' gains were computed in float32: 1e-7 was seen in ResNet-18, 50
INPUT_KEY = 10**6
LARGEST_IMAGE = 224  # of logits; multiply-adds of EfficientNets are for larger ones
KINDS = ("logits", "logits_train", "logits_calibrated")

Shapes = list[tuple[str, list[int]]]
Golden = Mapping[str, object]


def ancestor_state(shapes: Shapes) -> dict[str, Tensor]:
    """The state that golden/README.md defines for a network, under the ancestor's names."""
    known = {name: tuple(shape) for name, shape in shapes}
    return {name: _drawn(i, name, tuple(shape), known) for i, (name, shape) in enumerate(shapes)}


def _drawn(i: int, name: str, shape: tuple[int, ...], known: Mapping[str, tuple[int, ...]]) -> Tensor:
    prefix, _, last = name.rpartition(".")
    if last == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    n = Generator(Philox(key=i)).standard_normal(size=shape)
    bias = f"{prefix}.bias" if prefix else "bias"
    if last == "running_var":
        n = 1 + 0.1 * np.abs(n)
    elif last in ("running_mean", "bias"):
        n = 0.1 * n
    elif last == "alpha" or len(shape) <= 1 or known.get(bias) == shape:
        n = 1 + 0.1 * n
    else:
        n = n * np.sqrt(2) / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(n, dtype=np.float32))


def golden_images(height: int) -> Tensor:
    """The two images (2, 3, h, h) that every golden network saw."""
    drawn = Generator(Philox(key=INPUT_KEY)).standard_normal((2, 3, height, height))
    return torch.from_numpy(drawn.astype(np.float32))


@dataclass(frozen=True)
class GoldenModel:
    """One file: what the ancestor's network has, and what it answered."""

    name: str
    facts: Golden

    @classmethod
    def read(cls, path: Path) -> "GoldenModel":
        return cls(path.stem, json.loads(path.read_text()))

    @cached_property
    def state(self) -> dict[str, Tensor]:
        return unwrap(ancestor_state(self.facts["state_dict"]), our_network(self.name))

    @property
    def images(self) -> Tensor:
        return golden_images(min(self.facts["input"][-1], LARGEST_IMAGE))

    @property
    def num_classes(self) -> int:
        """The rows of the last matrix; none in a network without a classifier."""
        return next((shape[0] for _, shape in reversed(self.facts["state_dict"]) if len(shape) == 2), 0)

    def network(self, dtype: torch.dtype) -> nn.Module:
        """Our network with the ancestor's weights."""
        model = build_network(self.name, self.num_classes)
        load_weights(model, self.state)
        return model.to(dtype)


def check_model(path: Path) -> list[Check]:
    """Counts, and the logits that were kept. CheckpointError if the ancestor's weights do not fit."""
    golden = GoldenModel.read(path)
    model = golden.network(torch.float64)
    checks = [
        exact("params", sum(p.numel() for p in model.parameters()), golden.facts["params"]),
        exact("macs", multiply_adds(model, golden.facts["input"]), golden.facts["macs"]),
    ]
    if golden.facts["golden"] is None:
        return [*checks, absent("logits")]
    return checks + _gains(golden) + _logits(golden, model)


def multiply_adds(model: nn.Module, shape: list[int]) -> int:
    """Multiply-adds of convolutions and linear layers for an input of `shape`, without computing them."""
    with FlopCounterMode(display=False) as counter, torch.device("meta"), torch.no_grad():
        state = {name: torch.empty_like(value, device="meta") for name, value in model.state_dict().items()}
        torch.func.functional_call(model.eval(), state, (torch.empty(shape, dtype=torch.float64),))
    counts = counter.get_flop_counts()["Global"]
    return sum(flops for operation, flops in counts.items() if operation is not torch.ops.aten.bmm) // 2


def _gains(golden: GoldenModel) -> list[Check]:
    """The gains that the first batch gave."""
    expected = golden.facts["golden"].get("initalpha")
    if not expected:
        return []
    model = golden.network(torch.float64)
    set_data_gains(model, golden.images)
    gains = {our_name(f"{name}.alpha"): value for name, value in expected["alpha_after"].items()}
    found = model.state_dict()
    errors = [abs(found[name] / value - 1).max().item() for name, value in gains.items()]
    return [Check("gains from data", max(errors), GAIN_TOLERANCE)]


def _logits(golden: GoldenModel, model: nn.Module) -> list[Check]:
    kept = {kind: golden.facts["golden"].get(kind) for kind in KINDS}
    kept = {kind: answer for kind, answer in kept.items() if answer and None not in answer["rows"]}
    found = _answers(model, golden.images, kept)
    noise = golden.facts["golden"].get("float32_noise_max_abs_over_std") or {}
    if any(answer["dtype"] == "float32" and kind not in noise for kind, answer in kept.items()):
        noise = {**_noise(found, _answers(golden.network(torch.float32), golden.images, kept)), **noise}
    checks = [absent(kind) for kind in KINDS if kind not in kept]
    rounding = _rounding(golden, found) if any(noise.get(kind, 0) > CHAOS for kind in kept) else {}
    for kind, answer in kept.items():
        checks += _compare(kind, found[kind], answer, noise.get(kind), rounding.get(kind, 0.0))
    return checks


@torch.no_grad()
def _answers(model: nn.Module, images: Tensor, kinds: Iterable[str]) -> dict[str, Tensor]:
    """Logits in evaluation; in training without dropout; in evaluation after that one batch gave the statistics."""
    images = images.to(next(model.parameters()).dtype)
    answers = {"logits": model.eval()(images)}
    for module in model.modules():
        if hasattr(module, "running_var"):
            module.momentum = 1.0
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    if "logits_train" in kinds or "logits_calibrated" in kinds:
        answers["logits_train"] = model.train()(images)
    if "logits_calibrated" in kinds:
        answers["logits_calibrated"] = model.eval()(images)
    return answers


def _noise(exact_logits: Mapping[str, Tensor], rounded: Mapping[str, Tensor]) -> dict[str, float]:
    """What float32 makes of our own network, for files that did not measure it."""
    return {kind: ((rounded[kind] - logits).abs().max() / logits.std()).item() for kind, logits in exact_logits.items()}


def _rounding(golden: GoldenModel, found: Mapping[str, Tensor]) -> dict[str, float]:
    """What a rounding of the images makes of our own logits in float64, of the largest, at most in some draws."""
    moved = dict.fromkeys(found, 0.0)
    for i in range(DRAWS):
        noise = torch.randn(golden.images.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        for kind, logits in _answers(
            golden.network(torch.float64), golden.images * (1 + ROUNDING * noise), found
        ).items():
            shares = (logits - found[kind]).abs().amax(1) / found[kind].abs().amax(1)
            moved[kind] = max(moved[kind], shares.max().item())
    return moved


def _compare(kind: str, found: Tensor, answer: Golden, noise: float | None, rounding: float) -> list[Check]:
    """Each sample's first logits, sum and sum of squares; the errors of sums a logit, so that one tolerance serves."""
    checks, exactly = [], max(FLOAT64_TOLERANCE, ROUNDING_FACTOR * rounding)
    for sample, (logits, row) in enumerate(zip(found.double(), answer["rows"], strict=True)):
        largest, count = logits.abs().max().item(), len(logits)
        errors = [
            np.abs(logits[: len(row["first16"])].numpy() - np.array(row["first16"])).max(),
            abs(logits.sum().item() - row["sum"]) / count,
            abs(logits.square().sum().item() - row["sum_of_squares"]) / (2 * largest * count),
        ]
        single = answer["dtype"] == "float32"
        unit, tolerance = (found.std().item(), FLOAT32_FACTOR * noise) if single else (largest, exactly)
        checks.append(Check(f"{kind}[{sample}]", float(max(errors)) / unit, tolerance))
        behind = (logits.max() - logits[row["argmax"]]).item()
        checks.append(Check(f"argmax of {kind}[{sample}]", behind / unit, 2 * tolerance))
    return checks
