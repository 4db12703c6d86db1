"""A trace of so many steps, no more and no fewer, of which the steps themselves know nothing."""

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from utils.errors import UsageError
from utils.tracing import WAIT, WARM_UP, StepTrace, refuse_long_trace

BEFORE = WAIT + WARM_UP


def taken(folder: Path, steps: int, shards: int, of: int, say: Callable[[str], None] = str) -> list[int]:
    """Numbers of the batches of `steps` steps, of which `of` are traced; a step multiplies once, a shard adds once."""
    trace = StepTrace(of, folder, say)
    batches: Iterator[int] = trace.over(iter(range(steps * shards)), shards)
    seen = []
    for _ in range(steps):
        for _ in range(shards):
            seen.append(next(batches))
            torch.cumsum(torch.ones(8), 0)
        torch.cumprod(torch.ones(8), 0)
    trace.stop()
    return seen


def calls(folder: Path, operation: str) -> int:
    with gzip.open(folder / "profile.json.gz") as file:
        return sum(event.get("name") == operation for event in json.load(file)["traceEvents"])


@pytest.mark.parametrize(("steps", "shards"), [(BEFORE + 3, 1), (BEFORE + 3, 2), (BEFORE + 9, 3)])
def test_so_many_steps_are_traced(steps: int, shards: int, tmp_path: Path) -> None:
    said: list[str] = []
    assert taken(tmp_path, steps, shards, 3, said.append) == list(range(steps * shards))
    assert calls(tmp_path, "aten::cumprod") == 3
    assert calls(tmp_path, "aten::cumsum") == 3 * shards
    assert "aten::cumsum" in (tmp_path / "profile.txt").read_text()
    assert len(said) == 1
    assert f"{tmp_path}/profile.json.gz" in said[0]


def test_a_trace_that_was_left_before_it_began_writes_nothing(tmp_path: Path) -> None:
    taken(tmp_path, BEFORE - 1, 1, 3)
    assert not list(tmp_path.iterdir())


def test_a_trace_that_does_not_fit_is_refused() -> None:
    refuse_long_trace(5, BEFORE + 5)
    with pytest.raises(UsageError, match=r"--profile 6 needs 11 steps.* and 10 are left; ask for 5 at most"):
        refuse_long_trace(6, BEFORE + 5)
    with pytest.raises(UsageError, match="leave it out"):
        refuse_long_trace(1, BEFORE)
