"""Distillation: the paper's formula in float64, and a teacher that is only asked."""

import contextlib
import math

import pytest
import torch
from torch import Tensor, nn

from utils.config import LossConfig
from utils.distillation import Teacher, divergence, fingerprint, refuse_unused, taught, untaught
from utils.errors import UsageError
from utils.loss import build_loss


def probabilities(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in logits]
    return [power / math.fsum(powers) for power in powers]


def cross_entropy_at(ours: Tensor, theirs: Tensor, temperature: float) -> float:
    """Mean of -sum q log p at a temperature, term by term: the objective of arXiv 1503.02531."""
    terms = []
    for mine, other in zip(ours.tolist(), theirs.tolist(), strict=True):
        p, q = probabilities(mine, temperature), probabilities(other, temperature)
        terms.append(-math.fsum(b * math.log(a) for a, b in zip(p, q, strict=True)))
    return math.fsum(terms) / len(terms)


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    return (3 * torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).unbind()


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_divergence_is_the_papers_cross_entropy_less_the_teachers_entropy(
    temperature: float, pair: tuple[Tensor, Tensor]
) -> None:
    ours, theirs = pair
    expected = cross_entropy_at(ours, theirs, temperature) - cross_entropy_at(theirs, theirs, temperature)
    assert divergence(ours, theirs, temperature).item() == pytest.approx(temperature**2 * expected, rel=1e-10)
    assert divergence(theirs, theirs, temperature).item() == pytest.approx(0, abs=1e-14)


def test_gradients_do_not_shrink_with_the_temperature(pair: tuple[Tensor, Tensor]) -> None:
    """At high temperatures the paper finds (z - v) / (N T^2), for logits of mean zero; T^2 takes it back."""
    ours, theirs = (z - z.mean(1, keepdim=True) for z in pair)
    ours.requires_grad_()
    divergence(ours, theirs, 1e4).backward()
    torch.testing.assert_close(ours.grad, (ours - theirs).detach() / 5 / len(ours), rtol=1e-2, atol=1e-4)


@pytest.fixture
def teacher() -> Teacher:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 5)]
    return Teacher(nn.Sequential(*layers).double(), contextlib.nullcontext, "")


def test_loss_is_the_mean_of_both_parts_by_alpha(pair: tuple[Tensor, Tensor], teacher: Teacher) -> None:
    images, labels = torch.randn(6, 3, 4, 4, dtype=torch.float64), torch.arange(6) % 5
    config = LossConfig(teacher="x", distill_alpha=0.3, distill_temperature=2.0, label_smoothing=0.1)
    plain = build_loss(config)
    logits = pair[0].clone().requires_grad_()
    found = taught(plain, teacher, config)(logits, labels, images)
    told = teacher.network(images)
    assert found.item() == pytest.approx((0.7 * plain(logits, labels) + 0.3 * divergence(logits, told, 2.0)).item())
    alone = taught(plain, teacher, LossConfig(teacher="x", distill_alpha=1.0))(logits, labels, images)
    assert alone.item() == divergence(logits, told, 4.0).item()
    assert untaught(plain)(logits, labels, images).item() == plain(logits, labels).item()


def test_teacher_is_only_asked(teacher: Teacher) -> None:
    images = torch.randn(6, 3, 4, 4, dtype=torch.float64)
    before = {name: value.clone() for name, value in teacher.network.state_dict().items()}
    logits = teacher.logits(images)
    assert not logits.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    assert torch.equal(logits, teacher.logits(images))  # no dropout
    for name, value in teacher.network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_fingerprint_is_of_every_bit_and_name() -> None:
    torch.manual_seed(0)
    weights = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).state_dict()
    known = fingerprint({}, weights)
    assert known == fingerprint({}, {name: value.clone() for name, value in weights.items()})
    others = [fingerprint({"act": "relu6"}, weights)]
    for name, value in weights.items():
        others.append(fingerprint({}, weights | {name: value + 1}))
        others.append(fingerprint({}, {f"{it}2" if it == name else it: value for it, value in weights.items()}))
    others.append(fingerprint({}, weights | {"0.weight": weights["0.weight"].T}))
    assert len({known, *others}) == len(others) + 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"teacher_weights": "a.pth"}, "--teacher-weights a.pth has no effect without --teacher"),
        ({"teacher_pretrained": True}, "--teacher-pretrained"),
        ({"distill_alpha": 0.3}, "--distill-alpha 0.3"),
        ({"distill_temperature": 1.0}, "--distill-temperature 1.0"),
        ({"teacher": "x", "distill_alpha": 1.0, "label_smoothing": 0.1}, "--label-smoothing has no effect"),
        ({"teacher": "x", "distill_alpha": 1.0, "bce": True}, "--bce has no effect"),
    ],
)
def test_flags_without_effect_are_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        refuse_unused(LossConfig(**settings))
