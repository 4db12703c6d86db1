"""Laps that add up to the whole, on a clock and on a device whose events pass later than they are recorded."""

from dataclasses import dataclass

import pytest
import torch

from utils import stopwatch
from utils.stopwatch import PARTS, HostMoment, Stopwatch, speed

CPU = torch.device("cpu")


@dataclass
class Device:
    """A clock of which a moment is known only once `now` has reached it."""

    now: float = 0.0
    waits: int = 0
    recorded: float = 0.0

    def record(self) -> "Event":
        return Event(self, self.recorded)


@dataclass
class Event:
    device: Device
    time: float

    def is_past(self) -> bool:
        return self.device.now >= self.time

    def wait(self) -> None:
        self.device.waits += 1
        self.device.now = max(self.device.now, self.time)

    def seconds_since(self, earlier: "Event") -> float:
        assert self.is_past() and earlier.is_past(), "asked for a time that the device has not reached"
        return self.time - earlier.time


def test_laps_are_the_time_since_the_lap_before(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])
    watch = stopwatch.stopwatch(CPU)
    for part, time in (("data_wait", 100.5), ("forward", 101.0), ("backward", 102.0), ("forward", 104.0)):
        now[0] = time
        watch.lap(part)
    seconds = watch.interval()
    assert (seconds["data_wait"], seconds["forward"], seconds["backward"]) == (0.5, 2.5, 1.0)
    assert sum(seconds.values()) == 4.0
    now[0] = 105.0
    watch.lap("logging")
    assert watch.interval() == dict.fromkeys(seconds, 0.0) | {"logging": 1.0}


def test_a_host_that_runs_ahead_never_waits_and_intervals_keep_their_laps() -> None:
    """The device takes a second for each lap, and the host is six laps ahead."""
    device = Device()
    watch = Stopwatch(device.record)
    intervals = []
    for lap in range(24):
        device.recorded, device.now = lap + 1.0, max(0.0, lap - 5.0)
        watch.lap(PARTS[lap % 6])
        if lap % 12 == 11:
            intervals.append(watch.interval())
    assert device.waits == 0
    assert sum(intervals[0].values()) == 12.0  # long past
    assert sum(intervals[1].values()) == 6.0  # those of the last six laps are to come
    device.now = 24.0
    watch.look()
    assert intervals == [dict.fromkeys(PARTS, 2.0) | {"validation": 0.0, "aside": 0.0}] * 2
    assert device.waits == 0


def test_laps_that_are_waited_for_are_all_there() -> None:
    device = Device()
    watch = Stopwatch(device.record)
    device.recorded = 3.0
    watch.lap("validation")
    watch.settle()
    assert (device.waits, watch.interval()["validation"]) == (1, 3.0)


def test_values_are_of_a_step_and_of_all_ranks_images() -> None:
    seconds = dict.fromkeys(PARTS, 0.5) | {"data_wait": 2.5, "validation": 100.0, "aside": 50.0}
    values = dict(speed(seconds, steps=5, images=300))
    assert (values["perf/img_per_s"], values["perf/data_wait"]) == (60.0, 0.5)
    assert values["time/data_wait"] == 0.5
    assert sum(value for name, value in values.items() if name.startswith("time/")) == pytest.approx(1.0)


def test_values_of_no_time_at_all_are_finite() -> None:
    assert dict(speed(dict.fromkeys(PARTS, 0.0), 1, 8))["perf/data_wait"] == 0.0


def test_a_moment_is_past_at_once_on_the_host() -> None:
    first, second = HostMoment(), HostMoment()
    assert first.is_past() and second.seconds_since(first) >= 0


class Recorded:
    """torch.cuda.Event on a device one event behind the host: each takes 2 ms, and only the last is not past."""

    made = 0

    def __init__(self, enable_timing: bool):
        assert enable_timing

    def record(self) -> None:
        type(self).made += 1
        self.number = type(self).made

    def query(self) -> bool:
        return self.number < type(self).made

    def synchronize(self) -> None:
        type(self).made += 1

    def elapsed_time(self, later: "Recorded") -> float:
        assert self.query() and later.query(), "torch raises for an event that has not passed"
        return 2.0 * (later.number - self.number)


def test_events_are_asked_for_their_time_only_when_they_have_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Recorded)
    watch = stopwatch.stopwatch(torch.device("cuda"))
    for part in ("forward", "backward", "forward"):
        watch.lap(part)
    assert len(watch.laps) == 1
    seconds = watch.interval()
    assert (seconds["forward"], seconds["backward"]) == (0.002, 0.002)
    watch.settle()
    assert seconds["forward"] == pytest.approx(0.004)
    assert not watch.laps


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpus_laps_are_its_own_time() -> None:
    watch = stopwatch.stopwatch(torch.device("cuda"))
    x = torch.randn(4096, 4096, device="cuda")
    for part in ("forward", "backward"):
        for _ in range(10):
            x = (x @ x).clamp(-1, 1)
        watch.lap(part)
    watch.settle()
    seconds = watch.interval()
    assert seconds["forward"] > 0 and seconds["backward"] > 0 and seconds["copy"] == 0
