"""inspect_checkpoint: one sum for equal contents, another for any other, and what is printed."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scripts.inspect_checkpoint import InspectConfig, content_sum, inspect
from utils.checkpoint import State, manifest_of, save_checkpoint
from utils.script import run_script


def example() -> State:
    """The checkpoint of a small network after a step."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    return {
        "format": 1,
        "arch": "resnet20",
        "seed": 7,
        "shards": 4,
        "data": {"listing": "1234", "content": "abcd"},
        "config": {"model": {"norm": "pws"}, "training": {"precision": "bf16", "batch_size": 32}},
        "step": 123,
        "epoch": 4,
        "metric": 56.25,
        "metric_step": 110,
        "numerics": {"torch": "2.15.0", "cpu": "AVX2"},
        "sums": torch.zeros(4, 3),
        "state_dict": model.state_dict(),
        "state_dict_ema": {name: value / 2 for name, value in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
    }


def test_the_sum_does_not_know_order_or_memory_layout_or_what_else_a_checkpoint_tells():
    one, other = example(), example()
    weights = other["state_dict"]
    weights["0.weight"] = weights["0.weight"].to(memory_format=torch.channels_last)
    weights["0.bias"] = torch.stack([weights["0.bias"], torch.zeros(4)], 1)[:, 0]  # every second number in memory
    other["state_dict"] = OrderedDict(reversed(weights.items()))
    other |= {"step": 5, "metric": 1.0, "numerics": {}, "sums": torch.ones(4, 3), "config": {}, "arch": "else"}
    other["optimizer"]["param_groups"][0]["lr"] = 0.2
    assert not other["state_dict"]["0.weight"].is_contiguous()
    assert content_sum(dict(reversed(other.items()))) == content_sum(one)


def add_one_bit(value: Tensor) -> None:
    value.view(torch.int32).flatten()[0] ^= 1


CHANGES: dict[str, Callable[[State], object]] = {
    "a bit of a weight": lambda state: add_one_bit(state["state_dict"]["0.weight"]),
    "a bit of an average": lambda state: add_one_bit(state["state_dict_ema"]["1.running_var"]),
    "a bit of a momentum": lambda state: add_one_bit(state["optimizer"]["state"][1]["momentum_buffer"]),
    "the sign of a zero": lambda state: state["state_dict"]["1.bias"].copysign_(torch.tensor(-1.0)),
    "a name": lambda state: state["state_dict"].update(new=state["state_dict"].pop("0.bias")),
    "a shape": lambda state: state["state_dict"].update({"0.bias": state["state_dict"]["0.bias"].view(2, 2)}),
    "a type": lambda state: state["state_dict"].update({"0.bias": state["state_dict"]["0.bias"].view(torch.int32)}),
    "no averages": lambda state: state.pop("state_dict_ema"),
    "weights and averages exchanged": lambda state: state.update(
        state_dict=state["state_dict_ema"], state_dict_ema=state["state_dict"]
    ),
    "momenta exchanged": lambda state: state["optimizer"]["state"].update(
        {1: state["optimizer"]["state"][2], 2: state["optimizer"]["state"][1]}
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_sum_knows(change: str):
    state = example()
    state["state_dict"]["1.bias"].zero_()
    before = content_sum(state)
    CHANGES[change](state)
    assert content_sum(state) != before


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.bool, torch.int64])
def test_tensors_of_every_type_enter_the_sum(dtype: torch.dtype):
    sums = {content_sum({"state_dict": {"a": torch.tensor(value).to(dtype)}}) for value in (0, 1)}
    assert len(sums) == 2


def command(*words: object) -> int:
    return run_script(InspectConfig, inspect, [*map(str, words)])


def test_everything_that_identifies_a_checkpoint_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = save_checkpoint(tmp_path, 123, example())
    assert command(tmp_path / "last.pth") == 0
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line[0] != "d")
    assert told["file"] == f"{path}, {path.stat().st_size:,} bytes"
    assert told["manifest"].startswith("right")
    assert told["network"] == "resnet20, norm pws"
    assert told["precision"] == "bf16"
    assert told["position"] == "epoch 4, step 123"
    assert told["best"] == "top-1 56.250 % at step 110"
    assert (told["seed"], told["shards"]) == ("7", "4 of 32 images")
    assert told["written"] == "by     torch 2.15.0, cpu AVX2"
    numbers = 4 * 3 * 9 + 4 + 2 * 4  # convolution, its bias, gains and biases of the norm
    assert told["weights"].startswith(f"7 tensors, {numbers + 2 * 4 + 1} numbers")  # and running statistics, a counter
    assert told["averages"].startswith("7 tensors")
    assert told["optimizer"].startswith(f"4 tensors, {numbers} numbers")
    assert told["content"] == f"sha256 {content_sum(example())}"


def test_sha256_prints_the_sum_alone_and_the_same_for_another_file_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = save_checkpoint(tmp_path, 123, example())
    other = path.with_name("other.pth")
    other.write_bytes(path.read_bytes())
    manifest_of(other).write_bytes(manifest_of(path).read_bytes())
    for file in (path, other, tmp_path / "last.pth"):
        assert command(file, "--sha256") == 0
        assert capsys.readouterr().out == f"{content_sum(example())}\n"


def test_missing_and_damaged_files_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = save_checkpoint(tmp_path, 123, example())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for file, reason in ((path, "is damaged"), (tmp_path / "missing.pth", "no checkpoint at")):
        assert command(file) == 4
        told = capsys.readouterr()
        assert reason in told.err
        assert told.err.count("\n") == 1
        assert told.out == ""
