"""The loss: float64 formulas, torch's own, and the two ancestors' golden numbers."""

import math
from collections.abc import Callable

import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.config import LossConfig
from utils.errors import UsageError
from utils.loss import build_loss, example_losses, wide

Golden = Callable[[str], tuple[dict, dict[str, NDArray]]]


def by_hand(logits: Tensor, targets: Tensor, smoothing: float) -> float:
    """Mean over images of -sum q log p with q = (1 - eps) target + eps / K, term by term in Python."""
    total = 0.0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        normalizer = math.log(math.fsum(math.exp(value) for value in row))
        shares = target if isinstance(target, list) else [float(k == target) for k in range(len(row))]
        wanted = [(1 - smoothing) * share + smoothing / len(row) for share in shares]
        total -= math.fsum(q * (value - normalizer) for q, value in zip(wanted, row, strict=True))
    return total / len(logits)


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("mixed", [False, True])
def test_loss_is_the_cross_entropy_of_smoothed_targets(smoothing: float, mixed: bool, logits: Tensor) -> None:
    labels = torch.tensor([0, 4, 2, 2, 1, 3])
    shares = torch.rand(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).softmax(1)
    targets = shares if mixed else labels
    found = build_loss(LossConfig(label_smoothing=smoothing))(logits, targets)
    assert found.item() == pytest.approx(by_hand(logits, targets, smoothing), rel=1e-12)


def test_smoothed_loss_has_the_value_of_the_seeds() -> None:
    logits, target = torch.tensor([[1.0, 2, 3, 4]], dtype=torch.float64), torch.tensor([2])
    assert build_loss(LossConfig(label_smoothing=0.1))(logits, target).item() == pytest.approx(1.4901896986, abs=1e-10)
    ancestors = build_loss(LossConfig(label_smoothing=0.1 * 4 / 3))(logits, target).item()
    assert ancestors == pytest.approx(1.5068563652, abs=1e-10)  # ModelZoo.pytorch
    entropy = -(0.9 * math.log(0.9) + 3 * (0.1 / 3) * math.log(0.1 / 3))
    assert ancestors - entropy == pytest.approx(1.0719121630, abs=1e-10)  # PytorchInsight


# ModelZoo.pytorch makes its target in float32, hence 1e-7; PytorchInsight's divergence lacks the target's entropy.
ANCESTORS = [("mz__LabelSmoothingLoss__s0.1", "smoothing", 1e-7), ("pi__SoftCrossEntropyLoss__ls0.1", None, 1e-7)]


@pytest.mark.parametrize(("name", "argument", "tolerance"), ANCESTORS)
def test_ancestors_smoothing_is_ours_times_k_over_k_minus_one(
    name: str, argument: str | None, tolerance: float, golden: Golden
) -> None:
    meta, arrays = golden(name)
    theirs = meta["ctor"][argument or "label_smoothing"]
    logits = torch.tensor(arrays["in.x"], dtype=torch.float64, requires_grad=True)
    classes = logits.shape[1]
    criterion = build_loss(LossConfig(label_smoothing=theirs * classes / (classes - 1)))
    loss = criterion(logits, torch.tensor(arrays["in.target"]))
    loss.backward()
    rest = theirs / (classes - 1)
    entropy = -(1 - theirs) * math.log(1 - theirs) - theirs * math.log(rest)
    constant = entropy if name.startswith("pi") else 0.0
    assert loss.item() - constant == pytest.approx(float(arrays["out.y"]), rel=tolerance)
    torch.testing.assert_close(logits.grad, torch.tensor(arrays["grad.x"]), rtol=tolerance, atol=tolerance)


def test_narrow_logits_are_widened_before_the_loss() -> None:
    logits = torch.tensor([[9.0] + [0.0] * 999]).bfloat16().requires_grad_()
    found = build_loss(LossConfig())(logits, torch.tensor([0]))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(math.log(1 + 999 * math.exp(-9)), abs=1e-5)  # of logits up to 9, in float32
    assert wide(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64


def test_validation_reports_the_plain_loss_of_each_image(logits: Tensor) -> None:
    labels = torch.tensor([0, 4, 2, 2, 1, 3])
    found = example_losses(logits, labels)
    expected = [by_hand(logits[i : i + 1], labels[i : i + 1], 0.0) for i in range(6)]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def binary_by_hand(logits: Tensor, wanted: list[list[float]]) -> float:
    """Mean over images and classes of -q log p - (1 - q) log (1 - p) with p the sigmoid, term by term."""
    terms = []
    for row, shares in zip(logits.tolist(), wanted, strict=True):
        for value, share in zip(row, shares, strict=True):
            p = 1 / (1 + math.exp(-value))
            terms.append(-share * math.log(p) - (1 - share) * math.log(1 - p))
    return math.fsum(terms) / len(terms)


def one_hots(labels: list[int], smoothing: float = 0.0, classes: int = 5) -> list[list[float]]:
    return [[(1 - smoothing) * (k == label) + smoothing / classes for k in range(classes)] for label in labels]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_loss_takes_each_class_for_itself(smoothing: float, logits: Tensor) -> None:
    labels = [0, 4, 2, 2, 1, 3]
    expected = binary_by_hand(logits, one_hots(labels, smoothing))
    config = LossConfig(bce=True, label_smoothing=smoothing)
    assert build_loss(config)(logits, torch.tensor(labels)).item() == pytest.approx(expected, rel=1e-12)
    dense = torch.tensor(one_hots(labels), dtype=torch.float64)
    assert build_loss(config)(logits, dense).item() == pytest.approx(expected, rel=1e-12)
    summed = build_loss(LossConfig(bce=True, bce_sum=True, label_smoothing=smoothing))(logits, dense)
    assert summed.item() == pytest.approx(5 * expected, rel=1e-12)


def test_binary_loss_of_mixed_targets_is_of_shares_or_of_what_is_above_the_threshold(logits: Tensor) -> None:
    shares = [[0.7, 0.3, 0, 0, 0], [0, 0.9, 0.1, 0, 0], [0, 0, 1, 0, 0]] * 2
    targets = torch.tensor(shares, dtype=torch.float64)
    soft = build_loss(LossConfig(bce=True, mixup=1))(logits, targets)
    assert soft.item() == pytest.approx(binary_by_hand(logits, shares), rel=1e-12)
    hard = build_loss(LossConfig(bce=True, bce_threshold=0.2, mixup=1))(logits, targets)
    above = [[float(share > 0.2) for share in row] for row in shares]
    assert hard.item() == pytest.approx(binary_by_hand(logits, above), rel=1e-12)


@pytest.mark.parametrize(
    "settings", [{"bce_sum": True}, {"bce_threshold": 0.2}, {"bce_threshold": 0.2, "bce": True}], ids=str
)
def test_flags_of_the_binary_loss_are_refused_without_effect(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"--{next(iter(settings)).replace('_', '-')}"):
        build_loss(LossConfig(**settings))


def test_binary_loss_is_wide(logits: Tensor) -> None:
    loss = build_loss(LossConfig(bce=True))
    assert loss(logits.bfloat16(), torch.tensor([0, 4, 2, 2, 1, 3])).dtype == torch.float32
    assert loss(logits, torch.tensor([0, 4, 2, 2, 1, 3])).dtype == torch.float64
