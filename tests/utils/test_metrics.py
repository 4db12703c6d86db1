"""Hits and losses, counted again in plain Python; tables that do not depend on the number of ranks."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from utils.distributed import World
from utils.errors import DataError
from utils.metrics import Score, TrainingSums, ValidationSums, everywhere, hits, write_class_accuracy

CPU = torch.device("cpu")
ALONE = World(0, 1, 0, CPU)
CLASSES = 7


def batch(number: int, size: int = 9, classes: int = CLASSES) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, logits and labels that a network might have."""
    draw = torch.Generator().manual_seed(number)
    logits = torch.randn(size, classes, generator=draw)
    labels = torch.randint(0, classes, (size,), generator=draw)
    return torch.rand(size, generator=draw), logits, labels


def counted(logits: Tensor, labels: Tensor, top: int) -> int:
    """How many labels are in the `top` places of the sorted logits."""
    right = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        right += label in sorted(range(len(row)), key=lambda k: -row[k])[:top]
    return right


@pytest.mark.parametrize("classes", [2, 5, 6, 100])
def test_hits_are_those_of_a_slow_count(classes: int) -> None:
    _, logits, labels = batch(0, 200, classes)
    assert hits(logits, labels).tolist() == [counted(logits, labels, 1), counted(logits, labels, 5)]
    assert hits(logits, labels).dtype == torch.float64


def test_logits_that_are_not_numbers_hit_at_most_by_chance() -> None:
    """topk calls NaN the largest: of many images each class is hit as often as its number comes first."""
    logits, labels = torch.full((10, 7), torch.nan), torch.arange(10) % 7
    assert hits(logits, labels)[0] <= 2


def added(numbers: list[int], batches: int) -> ValidationSums:
    """The tables of a rank that measured these batches."""
    sums = ValidationSums(9 * (batches - 1) + 4, batches, CLASSES, CPU)
    for number in numbers:
        sums.add(number, *batch(number, 4 if number == batches - 1 else 9))
    return sums


def together(ranks: list[ValidationSums]) -> Score:
    """The score of a world of several ranks, whose tables are added as an all-reduce adds them."""
    first = ranks[0]
    for other in ranks[1:]:
        first.table += other.table
        first.classes += other.classes
    return first.score(ALONE)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_score_does_not_depend_on_the_number_of_ranks(size: int) -> None:
    alone = added(list(range(8)), 8).score(ALONE)
    score = together([added(list(range(rank, 8, size)), 8) for rank in range(size)])
    assert (score.top1, score.top5, score.loss, score.images) == (alone.top1, alone.top5, alone.loss, alone.images)
    assert torch.equal(score.classes, alone.classes)


def test_score_is_of_all_images_once() -> None:
    score = added(list(range(8)), 8).score(ALONE)
    parts = [batch(number, 4 if number == 7 else 9) for number in range(8)]
    losses, logits, labels = (torch.cat([part[i] for part in parts]) for i in range(3))
    assert score.images == 7 * 9 + 4 and score.left_out == 0
    assert score.top1 == pytest.approx(100 * counted(logits, labels, 1) / 67, rel=1e-12)
    assert score.top5 == pytest.approx(100 * counted(logits, labels, 5) / 67, rel=1e-12)
    assert score.loss == pytest.approx(sum(losses.double().tolist()) / 67, rel=1e-12)
    for label in range(CLASSES):
        of_class = labels == label
        expected = [int(of_class.sum()), counted(logits[of_class], labels[of_class], 1)]
        assert score.classes[label].tolist() == expected
    assert score.values() == {"top1": score.top1, "top5": score.top5, "loss": score.loss}


def test_bad_images_are_left_out_of_the_score_and_counted() -> None:
    sums = ValidationSums(18, 2, CLASSES, CPU)
    sums.add(0, *batch(0, 9))
    sums.add(1, *batch(1, 5))
    score = sums.score(ALONE)
    assert (score.images, score.left_out) == (14, 4)
    assert str(score).endswith("(14 images, 4 bad ones left out)")
    with pytest.raises(DataError, match="none of the 18 validation images"):
        ValidationSums(18, 2, CLASSES, CPU).score(ALONE)


def test_score_tells_percents_loss_and_images() -> None:
    score = Score(top1=76.54321, top5=93.2, loss=0.98765, images=50_000, left_out=0, classes=torch.zeros(1, 2))
    assert str(score) == "top-1 76.543 %  top-5 93.200 %  loss 0.9877  (50000 images)"


@pytest.mark.parametrize("size", [1, 2, 4])
def test_training_numbers_do_not_depend_on_the_number_of_ranks(size: int) -> None:
    each = 4 // size
    ranks = [TrainingSums(4, range(rank * each, (rank + 1) * each), CPU) for rank in range(size)]
    for step in range(3):
        for rank in ranks:
            for shard in rank.own:
                losses, logits, labels = batch(10 * step + shard)
                rank.add(shard, losses.mean(), logits, labels)
                rank.add_bad(shard, shard)
    parts = [batch(10 * step + shard) for step in range(3) for shard in range(4)]
    loss = sum(part[0].mean().double().item() for part in parts) / 12
    right = sum(counted(logits, labels, 1) for _, logits, labels in parts)
    for rank in ranks[1:]:
        ranks[0].table += rank.table
    found, bad = ranks[0].read(ALONE)
    assert bad == 3 * (0 + 1 + 2 + 3)
    assert found == {"train/loss": pytest.approx(loss, rel=1e-12), "train/top1": pytest.approx(100 * right / 108)}
    assert ranks[0].read(ALONE) == ({}, 0)  # nothing since the last reading


def test_mixed_targets_count_as_the_class_with_the_larger_share() -> None:
    sums = TrainingSums(1, range(1), CPU)
    logits = torch.eye(3)
    targets = torch.tensor([[0.6, 0.4, 0.0], [0.7, 0.3, 0.0], [0.0, 0.45, 0.55]])
    sums.add(0, torch.tensor(1.0), logits, targets)
    assert sums.read(ALONE)[0] == {"train/loss": 1.0, "train/top1": pytest.approx(200 / 3)}


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_is_left_out_with_its_images(loss: float) -> None:
    sums = TrainingSums(2, range(2), CPU)
    logits, labels = torch.eye(3), torch.tensor([0, 1, 0])
    sums.add(0, torch.tensor(2.0), logits, labels)
    sums.add(1, torch.tensor(loss), torch.full((3, 3), torch.nan), labels)
    assert sums.read(ALONE)[0] == {"train/loss": 2.0, "train/top1": pytest.approx(200 / 3)}
    sums.add(1, torch.tensor(loss), logits, labels)
    assert sums.read(ALONE) == ({}, 0)


def test_sums_go_on_from_a_checkpoint_at_another_number_of_ranks() -> None:
    saved, plain = TrainingSums(4, range(4), CPU), TrainingSums(4, range(4), CPU)
    for sums in (saved, plain):
        for shard in range(4):
            losses, logits, labels = batch(shard)
            sums.add(shard, losses.mean(), logits, labels)
    table = saved.state(ALONE)
    ranks = [TrainingSums(4, range(2 * rank, 2 * rank + 2), CPU) for rank in range(2)]
    for rank in ranks:
        rank.restore(table)
    assert not ranks[1].table[:2].any()  # or the two ranks together would count them twice
    ranks[0].table += ranks[1].table
    assert ranks[0].read(ALONE) == plain.read(ALONE)


def test_everywhere_gives_a_table_of_its_own() -> None:
    table = torch.ones(2, 2)
    everywhere(table, ALONE).zero_()
    assert table.sum() == 4


def test_class_accuracy_has_a_line_for_each_class(tmp_path: Path) -> None:
    write_class_accuracy(tmp_path, ["cat", "dog", "owl"], torch.tensor([[4, 3], [3, 1], [0, 0]]))
    lines = (tmp_path / "class_accuracy.tsv").read_text().splitlines()
    expected = ["class\timages\tcorrect\ttop1", "cat\t4\t3\t75.00", "dog\t3\t1\t33.33", "owl\t0\t0\tnan"]
    assert lines == expected
