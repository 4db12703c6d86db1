"""Averages of weights in whole runs: what they are means of, and that ranks, a checkpoint and an evaluation agree."""

import re
from pathlib import Path

import launching
import pytest
import torch

from scripts.inspect_checkpoint import content_sum
from utils.checkpoint import load_checkpoint
from utils.log import read_history

RUN = "--model resnet20 --img-size 16 -b 8 -j 0 --device cpu --epochs 3 --warmup-epochs 1 --lr 0.1 --log-interval 3"
AVERAGES = "--exact --shards 4 --swa 1 --swa-lr 0.05 --model-ema --model-ema-buffers reestimate --keep-epochs 1"


@pytest.fixture(scope="module")
def runs(image_lmdb: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The same run of one and of two processes."""
    folder = tmp_path_factory.mktemp("averages")
    flags = [*RUN.split(), *AVERAGES.split(), "--data-dir", str(image_lmdb), "--output-dir"]
    for processes in (1, 2):
        run = launching.run(processes, [*flags, str(folder / str(processes))], folder)
        assert run.codes == [0] * processes, run.text
    return {processes: folder / str(processes) for processes in (1, 2)}


def test_every_bit_of_the_averages_is_the_same_on_any_number_of_processes(runs: dict[int, Path]) -> None:
    one, two = (load_checkpoint(runs[processes] / "last.pth") for processes in (1, 2))
    assert content_sum(one) == content_sum(two)
    assert {"state_dict_ema", "state_dict_swa"} <= one.keys()


def test_equal_average_is_the_mean_of_the_ends_of_epochs_with_statistics_of_its_own(runs: dict[int, Path]) -> None:
    states = [load_checkpoint(runs[1] / f"epoch_{epoch:04d}.pth") for epoch in (1, 2, 3)]
    average = states[-1]["state_dict_swa"]
    assert int(average.pop("n_averaged")) == 3
    for name, value in average.items():
        ends = [state["state_dict"][name] for state in states]
        if "running" in name:
            assert not torch.equal(value, ends[-1]), name
        elif value.is_floating_point():
            torch.testing.assert_close(value.double(), torch.stack(ends).double().mean(0), rtol=1e-6, atol=1e-6)


def test_estimated_statistics_are_not_the_moving_averages_of_statistics(runs: dict[int, Path]) -> None:
    state = load_checkpoint(runs[1] / "last.pth")
    for name, value in state["state_dict_ema"].items():
        if "running" in name:
            assert not torch.equal(value, state["state_dict"][name]), name


def test_averages_are_validated_from_their_first_epoch_on_and_an_evaluation_finds_the_same(
    runs: dict[int, Path], image_lmdb: Path, tmp_path: Path
) -> None:
    validations = [line for line in read_history(runs[2]) if "val/top1" in line]
    assert ["val_swa/top1" in line for line in validations] == [True, True, True]
    measure = ["--evaluate", "--resume", str(runs[2] / "last.pth"), "--data-dir", str(image_lmdb)]
    run = launching.run(1, measure, tmp_path)
    assert run.codes == [0], run.text
    for name in ("val", "val_ema", "val_swa"):
        told = validations[-1]
        found = re.search(rf"^{name} +top-1 (\S+) %  top-5 (\S+) %  loss (\S+)", run.text, re.MULTILINE)
        assert found.groups() == (
            f"{told[f'{name}/top1']:.3f}",
            f"{told[f'{name}/top5']:.3f}",
            f"{told[f'{name}/loss']:.4f}",
        )


def test_rates_follow_the_schedule_and_then_that_of_the_average(runs: dict[int, Path]) -> None:
    rates = {line["step"]: line["optim/lr"] for line in read_history(runs[1]) if "optim/lr" in line}
    assert rates[5] == pytest.approx(0.1)  # the end of the warm-up
    assert {rate for step, rate in rates.items() if step > 5} == {0.05}
