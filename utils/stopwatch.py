"""Where the time of a step goes, without a wait for the device.

A *lap* ends a part: whatever was done since the lap before it. Laps follow each other without a gap, so the parts add
up to the whole. On a CPU a lap is a reading of the clock. On a GPU it is an event in its queue, and a part is what the
device itself spent between two of them: waiting for data is then only the time in which it had nothing else to do.
Events are looked at when they have passed, which is known without waiting for them.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol, Self

import torch

# Of a step; backward has the exchange of gradients in it, and the wait for other ranks.
PARTS = ("data_wait", "copy", "forward", "backward", "optimizer", "logging")
BETWEEN = "validation"  # and what else comes between two epochs: checkpoints, statistics
ASIDE = "aside"  # what belongs to none of them
Seconds = dict[str, float]


class Moment(Protocol):
    """A point in time, of the host or of a device's queue."""

    def is_past(self) -> bool: ...

    def wait(self) -> None: ...

    def seconds_since(self, earlier: Self) -> float: ...


class HostMoment:
    """Now."""

    def __init__(self):
        self.time = time.perf_counter()

    def is_past(self) -> bool:
        return True

    def wait(self) -> None:
        """It is past."""

    def seconds_since(self, earlier: Self) -> float:
        return self.time - earlier.time


class DeviceMoment:
    """When the GPU has done what it was asked to do so far."""

    def __init__(self):
        self.event = torch.cuda.Event(enable_timing=True)
        self.event.record()

    def is_past(self) -> bool:
        return self.event.query()

    def wait(self) -> None:
        self.event.synchronize()

    def seconds_since(self, earlier: Self) -> float:
        return earlier.event.elapsed_time(self.event) / 1000


class Stopwatch:
    """Seconds of each part, of this rank."""

    def __init__(self, moment: Callable[[], Moment]):
        self.moment = moment
        self.laps: deque[tuple[Seconds, str, Moment]] = deque()  # not past when they were last looked at
        self.start()

    def start(self) -> None:
        """Count from here."""
        self.laps.clear()
        self.seconds = _none()
        self.last = self.moment()

    def lap(self, part: str) -> None:
        """What was done since the last lap was this part."""
        self.laps.append((self.seconds, part, self.moment()))
        self.look()

    def look(self) -> None:
        """Count the laps that have passed."""
        while self.laps and self.laps[0][2].is_past():
            seconds, part, moment = self.laps.popleft()
            seconds[part] += moment.seconds_since(self.last)
            self.last = moment

    def interval(self) -> Seconds:
        """Seconds of the parts since the last such call. On a GPU complete once its last lap has passed and `look` was
        called, until when they still grow."""
        ended, self.seconds = self.seconds, _none()
        return ended

    def settle(self) -> None:
        """Count all laps, waiting for them."""
        if self.laps:
            self.laps[-1][2].wait()
        self.look()


def stopwatch(device: torch.device) -> Stopwatch:
    """The one for a device."""
    return Stopwatch(DeviceMoment if device.type == "cuda" else HostMoment)


def _none() -> Seconds:
    return dict.fromkeys((*PARTS, BETWEEN, ASIDE), 0.0)


def speed(seconds: Seconds, steps: int, images: int) -> Iterator[tuple[str, float]]:
    """What the log tells of an interval of so many steps and images of all ranks: names and values. Images a second,
    the share of waiting for data, and the seconds of each part in a step."""
    whole = max(sum(seconds[part] for part in PARTS), 1e-9)
    yield "perf/img_per_s", images / whole
    yield "perf/data_wait", seconds["data_wait"] / whole
    yield from ((f"time/{part}", seconds[part] / steps) for part in PARTS)
