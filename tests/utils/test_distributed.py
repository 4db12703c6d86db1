"""Who this process is, as launchers tell it; and lines that never stop a run."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from utils import distributed
from utils.config import TrainingConfig
from utils.distributed import (
    StopSignal,
    World,
    agree,
    barrier,
    broken_connection,
    fail,
    first_node,
    from_first,
    is_broken_connection,
    start,
    write_line,
)
from utils.errors import EnvironmentFault, UsageError

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
SLURM = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "16", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "1234567"}
SLURM |= {"SLURM_STEP_NODELIST": "gpu[03-05,9],login"}
ALONE = World(0, 1, 0, torch.device("cpu"))


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SLURM", "TORCHELASTIC")) or name in TORCHRUN:
            monkeypatch.delenv(name)


def place(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> tuple[int, int, int]:
    """(rank, world size, local rank) in this environment; what is set there is forgotten after the test."""
    for name in TORCHRUN:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    distributed._environment_from_slurm()
    return distributed._place()


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu01", "gpu01"),
        ("gpu-a-1", "gpu-a-1"),
        ("gpu01,gpu02", "gpu01"),
        ("gpu[03-05,9],login", "gpu03"),
        ("gpu[7]", "gpu7"),
        ("gpu[12,14]", "gpu12"),
        ("a,gpu[1-2]", "a"),
        ("node[001-128]", "node001"),
        pytest.param("rack[0-1]_blade[2-3]", "rack0_blade2"),
        pytest.param("gpu[1-2]-ib", "gpu1-ib"),
    ],
)
def test_first_node_of_slurms_list(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


def test_process_without_launcher_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place(monkeypatch, {}) == (0, 1, 0)
    assert place(monkeypatch, {"MASTER_ADDR": "here", "MASTER_PORT": "1"}) == (0, 1, 0)  # a login shell may set these
    world = start(TrainingConfig(device="cpu"))
    assert (world.rank, world.size, world.is_first, world.control) == (0, 1, True, None)


def test_torchruns_variables_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place(monkeypatch, TORCHRUN) == (3, 8, 1)


@pytest.mark.parametrize("missing", sorted(TORCHRUN))
def test_partial_environment_is_refused_with_what_is_missing(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {name: value for name, value in TORCHRUN.items() if name != missing}
    with pytest.raises(UsageError, match=rf"is set but {missing} is not; start with torchrun, or unset it"):
        place(monkeypatch, environment)


def test_lone_rank_is_refused_with_all_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "RANK is set but WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not"
    with pytest.raises(UsageError, match=message):
        place(monkeypatch, {"RANK": "0"})


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK"])
def test_rank_that_is_no_number_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"must be whole numbers: .*'two'"):
        place(monkeypatch, TORCHRUN | {name: "two"})


@pytest.mark.parametrize("wrong", [{"RANK": "8"}, {"RANK": "-1"}, {"WORLD_SIZE": "0"}, {"LOCAL_RANK": "-1"}])
def test_rank_outside_the_world_is_refused(wrong: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError):
        place(monkeypatch, TORCHRUN | wrong)


def test_slurms_variables_become_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place(monkeypatch, SLURM) == (5, 16, 1)
    assert os.environ["MASTER_ADDR"] == "gpu03"
    assert 20_000 <= int(os.environ["MASTER_PORT"]) < 40_000
    port = os.environ["MASTER_PORT"]
    assert place(monkeypatch, SLURM | {"SLURM_PROCID": "9"}) == (9, 16, 1)
    assert os.environ["MASTER_PORT"] == port  # all ranks of a job meet at one
    place(monkeypatch, SLURM | {"SLURM_JOB_ID": "1234568"})
    assert os.environ["MASTER_PORT"] != port


def test_slurm_does_not_overrule_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    place(monkeypatch, SLURM | {"MASTER_ADDR": "mine", "MASTER_PORT": "7"})
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("mine", "7")
    assert place(monkeypatch, SLURM | TORCHRUN) == (3, 8, 1)  # torchrun under srun


@pytest.mark.parametrize(
    "environment", [{"SLURM_JOB_ID": "1", "SLURM_PROCID": "0"}, SLURM | {"SLURM_STEP_NUM_TASKS": "1"}]
)
def test_slurm_job_of_one_task_is_one_process(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert place(monkeypatch, environment) == (0, 1, 0)
    assert "RANK" not in os.environ


def test_missing_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentFault, match="--device cuda, but torch finds no usable GPU"):
        start(TrainingConfig(device="cuda"))
    assert start(TrainingConfig(device="auto")).device.type == "cpu"


def test_more_processes_than_gpus_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(EnvironmentFault, match="its 2 GPUs; use --nproc_per_node=2"):
        distributed._device("auto", 2)


def test_exact_on_a_cpu_takes_one_thread_and_refuses_more() -> None:
    code = "import torch; from utils.config import TrainingConfig; from utils.distributed import start\n"
    code += "start(TrainingConfig(exact=True, device='cpu'))\n"
    code += "print(torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == "1 True\n"
    with pytest.raises(UsageError, match="--exact needs one thread a process on a CPU, not --threads 2"):
        try:
            start(TrainingConfig(exact=True, device="cpu", threads=2))
        finally:
            torch.use_deterministic_algorithms(False)


def test_line_is_written_in_one_piece(capfd: pytest.CaptureFixture[str]) -> None:
    write_line("grüße", 1)
    write_line("no end", 2, end="")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("grüße\n", "no end")


def test_closed_pipe_and_closed_descriptor_do_not_stop_a_run() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    write_line("nobody listens", writing)
    os.close(writing)
    write_line("nobody is there", writing)


def test_one_process_agrees_with_itself() -> None:
    agree(ALONE, {"seed": "1"})
    barrier(ALONE, "the end", 1.0)
    assert from_first(ALONE, "value") == "value"


@pytest.mark.parametrize(
    "words",
    [
        "[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234",
        "Broken pipe",
        "Timed out waiting 300000ms for recv operation to complete",
        "NCCL error: remote process exited or there was a network error",
    ],
)
def test_torchs_words_for_a_lost_process_are_known(words: str) -> None:
    assert is_broken_connection(RuntimeError(words))
    assert not is_broken_connection(RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"))


class Store:
    """A store in which no rank has told a reason."""

    def check(self, keys: list[str]) -> bool:
        return False


def test_ranks_that_do_not_answer_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_: object, **__: object) -> None:
        raise RuntimeError("[Rank 0]: Ranks 2, 3 failed to pass monitoredBarrier in 5000 ms")

    monkeypatch.setattr(torch.distributed, "monitored_barrier", answer)
    world = World(0, 4, 0, torch.device("cpu"), Store())
    error = RuntimeError("[/pytorch/gloo/pair.cc:553] Connection closed by peer [127.0.0.1]:20. And more")
    told = broken_connection(world, error)
    assert "rank 2, 3 no longer answers; run again with --resume auto" in str(told)
    assert "Connection closed by peer" in str(told)
    assert len(str(told).splitlines()) == 1
    assert told.exit_code == 6


def test_first_rank_hosts_the_store_until_the_others_know_the_reason(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Left(BaseException):
        pass

    def leave(code: int) -> None:
        raise Left(code)

    monkeypatch.setattr(os, "_exit", leave)
    store, late = torch.distributed.HashStore(), []

    def follow() -> None:
        time.sleep(1.5)  # a rank that gets no processor for a while
        late.append(int(store.get("train_dist/failed")))
        store.set("train_dist/leaving/1", "")

    other = threading.Thread(target=follow)
    other.start()
    with pytest.raises(Left, match="2"):
        fail(World(0, 2, 0, torch.device("cpu"), store), UsageError("--shards 3"), lambda: None)
    assert late == [2]
    other.join()
    assert capfd.readouterr().err == "error: rank 0: --shards 3\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signal_is_agreed_on_at_the_next_asking(number: signal.Signals) -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    try:
        stop = StopSignal(ALONE)
        stop.ask()
        assert not stop.agreed()
        os.kill(os.getpid(), number)
        assert not stop.agreed()  # this step was begun without it
        stop.ask()
        assert stop.agreed()
        assert stop.reason == number.name
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
