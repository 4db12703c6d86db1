"""Work done in order by other processes, and what becomes of those."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch

from data.workers import in_order
from utils.errors import DataError

ROOT = Path(__file__).resolve().parents[2]


def square(job: int) -> int:
    return job * job


def refuse_seven(job: int) -> int:
    if job == 7:
        raise DataError("image 7 is bad")
    return job


def refuse_zero_slowly(job: int) -> int:
    if job == 0:
        raise DataError("image 0 is bad")
    time.sleep(60)
    return job


def process_id(job: int) -> int:
    return os.getpid()


def end_itself(job: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return job


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_order(workers: int):
    assert list(in_order(square, range(20), workers)) == [job * job for job in range(20)]


@pytest.mark.parametrize("workers", [0, 2])
def test_jobs_are_asked_for_a_few_at_a_time(workers: int):
    asked = []

    def jobs() -> Iterator[int]:
        for job in itertools.count():
            asked.append(job)
            yield job

    results = in_order(square, jobs(), workers)
    assert list(itertools.islice(results, 5)) == [0, 1, 4, 9, 16]
    assert len(asked) <= 10
    results.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_is_raised_as_it_is_where_its_result_would_come(workers: int):
    results = in_order(refuse_seven, range(20), workers)
    assert list(itertools.islice(results, 7)) == list(range(7))
    with pytest.raises(DataError, match=r"^image 7 is bad$"):
        next(results)


def test_a_killed_worker_is_told_in_one_line_with_its_number_and_the_likely_reason():
    with pytest.raises(DataError, match=r"pid.* \d+.*out of memory.*--workers") as caught:
        list(in_order(end_itself, range(20), 2))
    assert "\n" not in str(caught.value)


def test_a_workers_death_interrupts_nothing_else():
    results = in_order(process_id, range(100), 1)
    worker = next(results)
    os.kill(worker, signal.SIGKILL)
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:  # the training step, which torch's own handler would end here
        pass
    with pytest.raises(DataError):
        list(results)


def test_closing_ends_the_workers_at_once():
    results = in_order(process_id, itertools.count(), 2)
    next(results)
    assert len(active_children()) == 2
    start = time.monotonic()
    results.close()
    assert active_children() == [] and time.monotonic() - start < 10


def test_an_error_does_not_wait_for_slow_work_elsewhere():
    start = time.monotonic()
    with pytest.raises(DataError):
        list(in_order(refuse_zero_slowly, range(10), 2))
    assert active_children() == [] and time.monotonic() - start < 30


def test_workers_leave_the_signals_that_stop_a_run_to_their_parent():
    results = in_order(process_id, range(40), 1)
    worker = next(results)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(worker, number)
    assert set(results) == {worker}


def test_loading_draws_nothing_from_the_generator_of_the_network():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(in_order(square, range(3), 1))
    assert torch.equal(torch.get_rng_state(), before)


SCRIPT = """
import itertools, os, signal, sys, time
sys.path.insert(0, {root!r})
from data.workers import in_order

def process_id(job):
    return os.getpid()

results = in_order(process_id, itertools.count(), 2)
print(next(results), next(results), flush=True)
{end}
"""


def run_until_it_ends(end: str) -> tuple[list[int], float]:
    """The workers of a program that ends as `end` says, and the seconds until they were all gone."""
    program = [sys.executable, "-c", SCRIPT.format(root=str(ROOT), end=end)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        workers = [int(word) for word in process.stdout.readline().split()]
        start = time.monotonic()
        try:
            process.wait(timeout=30)
        finally:
            process.kill()
    while any(is_alive(worker) for worker in workers) and time.monotonic() - start < 30:
        time.sleep(0.02)
    return workers, time.monotonic() - start


@pytest.mark.parametrize(
    "end",
    ["os.kill(os.getpid(), signal.SIGKILL)", "raise RuntimeError('a bug')", "sys.exit(3)", "os._exit(3)"],
    ids=["killed", "error", "exit", "exit at once"],
)
def test_workers_end_with_their_parent_however_it_ends(end: str):
    workers, seconds = run_until_it_ends(end)
    assert len(workers) == 2 and not any(is_alive(worker) for worker in workers)
    assert seconds < 20


def test_closing_again_and_again_never_hangs():
    """Killing workers first was seen to leave a lock held for ever, once in some dozens."""
    for _ in range(25):
        results = in_order(square, itertools.count(), 2)
        assert next(results) == 0
        results.close()
    assert active_children() == []
