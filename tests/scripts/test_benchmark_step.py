"""benchmark_step: a tiny run from end to end, what it counts and compares by, and what it refuses to tell."""

import importlib
import io
import json
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from scripts import benchmark_step
from scripts.benchmark_step import BenchmarkConfig, benchmark
from scripts.step_benchmark import counting, pacing
from scripts.step_benchmark.contenders import ALL, EXTRAS, OURS, PEERS, Setup
from scripts.step_benchmark.counting import Counting, Rates
from scripts.step_benchmark.likeness import likeness
from scripts.step_benchmark.pacing import EQUAL_STEPS, WARMING_STEPS, Pace
from scripts.step_benchmark.ratios import cost, coverage, ratio
from scripts.step_benchmark.report import Score, compared, costs, fault, records, table
from scripts.step_benchmark.resident import COUNT, resident
from scripts.step_benchmark.rounds import Facts, Turn
from utils.script import run_script

TINY = ["--models", "resnet18", "--batch", 2, "--img-size", 32, "--threads", 1, "--precision", "fp32"]
FEW = ["--repeats", 1, "--steps", 2]


@pytest.fixture(autouse=True)
def small_rates(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(counting.COPY_BYTES, "cpu", 1 << 20)
    monkeypatch.setitem(counting.SIDE, "cpu", 64)


def command(*given: object) -> int:
    return run_script(BenchmarkConfig, benchmark, [*map(str, given)])


def setup(contender: str = "ours", norm: str = "bn", infer: bool = False) -> Setup:
    return Setup(contender, "resnet18", "resnet18", norm, "fp32", 8, 32, "cpu", 1, infer, 1e9, 1e9)


def facts(losses: list[float] | None = None) -> Facts:
    return Facts(3.0, 0.5, losses or [7.0] * EQUAL_STEPS, 100, 0.05, None)


def scored(contender: str, seconds: list[float], norm: str = "bn", last: float = 6.0) -> Score:
    turns = [Turn(time, time, 300, [last, last]) for time in seconds]
    return Score(ALL[contender], setup(contender, norm), facts(), turns, 2, 0.05)


def test_a_tiny_run_makes_table_json_and_picture(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    outputs = ["--json", tmp_path / "figures.json", "--output", tmp_path / "bars.png"]
    assert command(*TINY, *FEW, "--norms", "bn", "--peers", "torchvision", *outputs) == 0
    told = capfd.readouterr().out
    assert "torchvision bn: resnet18: 11,689,512 parameters, the same answer" in told
    assert "| x torchvision bn " in told and told.count("| ours bn ") == 1
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert {item["name"] for item in figures} == {"ours", "torchvision"}
    for item in figures:
        assert (item["model"], item["norm"], item["precision"], item["phase"]) == ("resnet18", "bn", "fp32", "train")
        assert item["img_per_s"] > 0 and item["peak_mib"] > 50 and item["operations"] > 100
        assert item["loss"][1] < item["loss"][0], "it trains"
        # ResNet-18 has 1.81 G multiply-adds at 224 px; two images at 32 px, forward and about two of it backward
        assert item["giga_multiply_adds"] == pytest.approx(1.814 * (32 / 224) ** 2 * 2 * 3, rel=0.1)
    ours = next(item for item in figures if item["name"] == "ours")
    assert ours["ratio_to_peer"] == ours["ratios"]["torchvision bn"][0]
    with Image.open(tmp_path / "bars.png") as picture:
        assert picture.format == "PNG" and picture.width > 1000


class FakeRunner:
    """A contender without a process, whose loss rises if it is a peer."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        self.setup, self.contender, self.facts = setup, ALL[setup.contender], facts()
        self.name = f"{setup.contender} {setup.norm}"

    def run(self, steps: int) -> Turn:
        return Turn(1.0, 1.0, 300, [6.0 if self.contender.is_ours else 8.0] * steps)

    def close(self) -> None:
        """Nothing to end."""


def test_a_contender_whose_loss_does_not_fall_is_not_told_and_the_exit_code_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(benchmark_step, "Runner", FakeRunner)
    outputs = ["--json", tmp_path / "figures.json", "--output", tmp_path / "bars.png"]
    assert command(*TINY, *FEW, "--norms", "bn", "--peers", "torchvision", *outputs) == 5
    told = capsys.readouterr()
    assert "torchvision bn: its loss does not fall: 7.0000 at first, 8.0000 at last" in told.err
    assert [item["name"] for item in json.loads((tmp_path / "figures.json").read_text())] == ["ours"]


def test_a_loss_that_is_no_number_or_off_from_the_eager_one_is_a_fault():
    assert not fault(scored("ours", [1.0]), None)
    assert "does not fall" in fault(scored("ours", [1.0], last=math.nan), None)
    compiled = scored("timm-compile", [1.0])
    assert not fault(compiled, facts([7.0] * (EQUAL_STEPS - 1) + [6.9]))
    assert "off by 2.9%" in fault(compiled, facts([7.0] * (EQUAL_STEPS - 1) + [6.8]))
    assert "off by nan% at step 7" in fault(compiled, facts([7.0] * (EQUAL_STEPS - 1) + [math.nan]))


def test_ratios_are_paired_by_round_with_the_interval_of_their_order():
    found = ratio([1.0, 2.0, 4.0, 1.0, 1.0], [1.1, 2.0, 6.0, 0.9, 1.2])  # 1.1, 1.0, 1.5, 0.9, 1.2
    assert (found.value, found.low, found.high) == pytest.approx((1.1, 0.9, 1.5))
    assert found.coverage == 1 - 2 / 32
    ten = ratio([1.0] * 10, [float(number) for number in range(1, 11)])
    assert (ten.value, ten.low, ten.high) == (5.5, 2.0, 9.0)
    assert ten.coverage == coverage(10, 1) == 1 - 2 * 11 / 1024
    assert ratio([2.0], [3.0]) == (1.5, 1.5, 1.5, 0.0)


def test_a_cost_is_percent_more_time_for_the_same_images():
    found = cost([2.2, 2.0, 2.1], [2.0, 2.0, 2.0])
    assert found[:3] == pytest.approx((5.0, 0.0, 10.0))
    scores = [scored("ours", [2.0, 2.0, 2.0]), scored("ours+clip-grad", [2.2, 2.0, 2.1])]
    told = costs(scores)
    assert "| ours+clip-grad bn | --clip-grad 1 | +5.0    | +0.0 to +10.0 |" in told
    plain, extra = records(scores)
    assert plain["cost_percent"] is None and extra["cost_percent"] == [5.0, 0.0, 10.0]


def test_ours_is_compared_with_peers_of_its_norm_else_with_their_bn_and_with_our_plain_bn():
    scores = [
        *(scored("ours", [seconds], norm) for norm, seconds in (("bn", 2.0), ("gn", 3.0), ("pws", 1.0))),
        *(scored("timm", [seconds], norm) for norm, seconds in (("bn", 4.0), ("gn", 9.0))),
        scored("torchvision", [3.0]),
    ]
    found = compared(scores)
    assert {name: value.value for name, value in found["ours bn"].items()} == {"timm bn": 2.0, "torchvision bn": 1.5}
    assert (
        found["ours gn"].keys() == {"timm gn", "torchvision bn", "ours bn"} and found["ours gn"]["timm gn"].value == 3
    )
    assert {name: value.value for name, value in found["ours pws"].items()} == {
        "timm bn": 4.0,
        "torchvision bn": 3.0,
        "ours bn": 2.0,
    }
    rows = {f"{row['name']} {row['norm']}": row for row in records(scores)}
    assert rows["ours pws"]["ratio_to_peer"] == 3.0 and rows["ours pws"]["fastest_peer"] == "torchvision bn"
    assert rows["torchvision bn"]["ratio_to_peer"] == 1.0 and rows["timm bn"]["ratio_to_peer"] == 0.75
    assert rows["ours bn"]["img_per_s"] == 8 / (2.0 / 2), "a turn has two batches of eight"
    assert records(scores[:1])[0]["ratio_to_peer"] is None
    assert table(scores).splitlines()[2].startswith("| ours pws"), "the fastest first"


def test_counting_knows_bytes_products_and_limits():
    rates = Rates(bandwidth=1e3, multiply_adds=1e3)
    images, weight = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)
    with Counting(rates) as counted:
        out = F.conv2d(images, weight, padding=1)
        seen = out.view(2, -1)
        torch.empty(100)
    elements = images.numel() + weight.numel() + out.numel()
    assert (counted.operations, counted.moved, counted.multiply_adds) == (1, 4 * elements, 2 * 4 * 64 * 27)
    assert counted.seconds == pytest.approx(2 * 4 * 64 * 27 / 1e3)
    with Counting(rates) as counted:
        seen.relu_()
    assert (counted.operations, counted.moved, counted.multiply_adds) == (1, 2 * 4 * out.numel(), 0)


def test_what_an_operation_reads_twice_counts_twice():
    images, gain = torch.randn(2, 4, 8, 8, requires_grad=True), torch.ones(4)
    with Counting(Rates(1e9, 1e9)) as counted:
        out = F.batch_norm(images, None, None, gain, gain, training=True)
    statistics = 2 * gain.numel() + 2 * gain.numel()  # gain and bias in, mean and deviation out
    assert counted.moved == 4 * (3 * images.numel() + statistics)
    with torch.no_grad(), Counting(Rates(1e9, 1e9)) as counted:
        F.batch_norm(images, gain, gain, gain, gain)
    assert counted.moved == pytest.approx(4 * 2 * images.numel(), abs=4 * 8 * gain.numel())
    ones = torch.ones_like(out)
    with Counting(Rates(1e9, 1e9)) as counted:
        out.backward(ones)
    assert counted.moved == pytest.approx(4 * 5 * images.numel(), abs=4 * 8 * gain.numel())


def test_a_turn_holds_the_steps_asked_for_and_the_loop_waits_for_it(monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    class Orders:
        def __iter__(self) -> Iterator[str]:
            for steps in ("3", "2"):
                asked.append(f"{steps} after {taken}")
                yield steps

    taken, replies = 0, io.StringIO()
    monkeypatch.setattr(pacing.sys, "stdin", Orders())
    pace = Pace(setup(), replies)
    for batch in pace.over(iter(range(1000))):
        assert batch == taken
        taken += 1
        pace.losses.append(float(batch))
    before, warming = EQUAL_STEPS + 1, WARMING_STEPS["cpu"]
    assert asked == [f"3 after {before}", f"2 after {before + warming + 3}"]
    ready, first, second = map(json.loads, replies.getvalue().splitlines())
    assert ready["ready"]["losses"] == list(range(EQUAL_STEPS))
    assert first["turn"]["losses"] == [*range(before, before + warming + 3)]
    assert second["turn"]["losses"][-1] == taken - 1 == before + 2 * warming + 5 - 1


def test_more_steps_than_a_loop_has_are_refused_and_whole_steps_of_all_divide_a_turn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(benchmark_step, "Runner", FakeRunner)
    alone = [*TINY, "--norms", "bn", "--peers", "none", "--output", tmp_path / "bars.png"]
    assert command(*alone, "--steps", 4000) == 2
    assert "--steps 4000 with --repeats 5 is too much; at most 775" in capfd.readouterr().err
    assert command(*alone, "--steps", 3, "--extras") == 0
    told = capfd.readouterr().out
    assert "5 rounds of 4 batches each" in told and told.count("| ours+mixup bn ") == 2


class Enough(Exception):
    """The end of a loop that would go on for ever."""


class FewSteps:
    """A pace of so many batches."""

    def __init__(self, count: int) -> None:
        self.count, self.losses = count, []

    def over(self, batches: Iterator[object]) -> Iterator[object]:
        yield from islice(batches, self.count)
        raise Enough


@pytest.fixture
def settings_of_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As they were, afterwards."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def numbers(contender: str, infer: bool, folder: Path) -> list[float]:
    """The losses of some steps of a contender's loop."""
    pace = FewSteps(4)
    row = ALL[contender]
    module = importlib.import_module(f"scripts.step_benchmark.{row.module}")
    with pytest.raises(Enough):
        module.loop(setup(contender, infer=infer)._replace(flags=row.flags), pace, folder / "run")
    return [float(loss) for loss in pace.losses]


@pytest.mark.parametrize("contender", ["ours", "timm", "torchvision"])
def test_training_moves_weights_and_inference_does_not(contender: str, tmp_path: Path, settings_of_torch: None):
    trained = numbers(contender, False, tmp_path / "train")
    assert trained[0] == pytest.approx(math.log(1000), abs=0.7) and trained[2] < trained[0]
    seen = numbers(contender, True, tmp_path / "infer")
    assert seen[0] == seen[2] != seen[1] == seen[3], "two batches again and again"


def test_the_layout_of_a_peer_changes_speed_alone(tmp_path: Path, settings_of_torch: None):
    plain, other = (numbers(name, False, tmp_path) for name in ("torchvision", "torchvision-channels-last"))
    assert plain == pytest.approx(other, rel=1e-3)


def test_resident_batches_are_few_random_and_everybodys():
    first, again = resident(4, 8, "cpu"), resident(4, 8, "cpu")
    assert len(first) == COUNT
    for (images, labels), (same_images, same_labels) in zip(first, again, strict=True):
        assert images.equal(same_images) and labels.equal(same_labels)
        assert images.shape == (4, 8, 8, 3) and images.float().std() > 50
    assert not first[0][0].equal(first[1][0])


def test_networks_are_compared_before_speeds():
    assert likeness("torchvision", "resnet18", "bn") == (True, "resnet18: 11,689,512 parameters, the same answer")
    assert likeness("torchvision", "resnet18", "pws") == (False, "no resnet18 with norm pws is known of it")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--peers", "torchvison"], "--peers torchvison is not known; did you mean torchvision?"),
        (["--models", "resnt50"], "--models resnt50 is not known; did you mean resnet50?"),
        (["--precision", "bf17"], "--precision bf17 is not known; did you mean bf16?"),
        (["--norms", "pwz"], "--norms pwz is not known; did you mean pws?"),
        (["--ours", "our"], "--ours our is not known; did you mean ours?"),
        (["--json", "/no/where.json"], "--json /no/where.json: no folder /no"),
    ],
)
def test_mistakes_are_refused_in_one_line(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert command(*flags) == 2
    told = capsys.readouterr()
    assert message in told.err and told.err.count("\n") == 1 and not told.out


def test_every_contender_has_a_module_and_an_eager_twin_that_is_known():
    package = Path(benchmark_step.__file__).parent / "step_benchmark"
    for name, row in ALL.items():
        assert row.name == name and (package / f"{row.module}.py").exists()
        assert not row.eager or not ALL[row.eager].eager
    assert len(ALL) == len(OURS) + len(EXTRAS) + len(PEERS)
