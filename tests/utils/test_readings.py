"""Numbers that are told late, but all of them, in order, and as they were when they were asked for."""

import pytest
import torch
from torch import Tensor

from utils import readings
from utils.readings import Found, Readings


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A machine without a GPU passes for one with it: the events that were waited for."""
    found: list[object] = []

    class Copied:
        def record(self) -> None: ...

        def synchronize(self) -> None:
            found.append(self)

    monkeypatch.setattr(readings, "pinned", torch.empty_like)
    monkeypatch.setattr(torch.cuda, "Event", Copied)
    return found


def asked(count: int, late: bool) -> tuple[Readings, list[list[float]], list[Found]]:
    """So many readings of a counter that moves on; what was delivered by each of them, and all."""
    reader, delivered = Readings(late), []
    counter = torch.zeros((), dtype=torch.int64)
    told = []
    for _ in range(count):
        counter += 1
        reader.ask({"count": counter, "half": counter.float() / 2}, delivered.append)
        told.append([found["count"] for found in delivered])
    return reader, told, delivered


def test_a_reading_on_a_cpu_is_told_at_once(waits: list[object]) -> None:
    _, told, delivered = asked(3, late=False)
    assert told == [[1], [1, 2], [1, 2, 3]]
    assert delivered[1] == {"count": 2.0, "half": 1.0}
    assert not waits


def test_a_reading_on_a_gpu_is_told_with_the_next_one_and_none_is_lost(waits: list[object]) -> None:
    reader, told, delivered = asked(3, late=True)
    assert told == [[], [1], [1, 2]]
    reader.flush()
    assert [found["count"] for found in delivered] == [1, 2, 3]
    reader.flush()
    assert len(delivered) == 3 and len(waits) == 3


def test_a_reading_that_ends_the_run_is_not_told_twice() -> None:
    def stop(found: Found) -> None:
        raise ValueError(found)

    reader = Readings(late=True)
    reader.ask({"x": torch.tensor(1.0)}, stop)
    with pytest.raises(ValueError, match="x"):
        reader.flush()
    reader.flush()


def test_numbers_survive_what_comes_after_them_and_doubles_keep_their_bits() -> None:
    number, kept = torch.tensor([0.1], dtype=torch.float64), []
    reader = Readings(late=True)
    reader.ask({"x": number}, kept.append)
    number.zero_()
    reader.flush()
    assert kept == [{"x": 0.1}]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_asking_a_gpu_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    reader, found = Readings(late=True), []
    number: Tensor = torch.ones((), device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        reader.ask({"x": number}, found.append)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    reader.flush()
    assert found == [{"x": 1.0}]
