"""Sync batch norm on two ranks equals batch norm on their batches together."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.layers.sync import SyncBatchNorm2d

WORKER = Path(__file__).with_name("sync_ranks.py")
ROOT = Path(__file__).resolve().parents[3]
CHANNELS = 5
SIZES = {"equal": (3, 3), "unequal": (4, 1)}  # images of each rank


def started_norm() -> nn.BatchNorm2d:
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(CHANNELS).double()
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(tensor, 0.5, 2)
    return norm


def batch(sizes: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A batch far from zero mean, and a direction for its gradient."""
    torch.manual_seed(0)
    x = torch.randn(sum(sizes), CHANNELS, 4, 3, dtype=torch.float64) * 3 + 7
    return x, torch.randn_like(x)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict]]:
    """What each of two processes found for each case."""
    folder = tmp_path_factory.mktemp("sync")
    cases = [tuple(tensor.split(sizes) for tensor in batch(sizes)) for sizes in SIZES.values()]
    torch.save({"state": started_norm().state_dict(), "cases": cases}, folder / "cases.pt")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    commands = [[sys.executable, str(WORKER), str(rank), str(folder)] for rank in range(2)]
    processes = [subprocess.Popen(command, env=environment) for command in commands]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("case", range(len(SIZES)), ids=list(SIZES))
def test_two_ranks_equal_one_batch(ranks: list[list[dict]], case: int) -> None:
    found = [rank[case] for rank in ranks]
    x, direction = batch(list(SIZES.values())[case])
    norm, x = started_norm(), x.requires_grad_()
    output = norm(x)
    (output * direction).sum().backward()

    def close(ours: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)

    close(torch.cat([rank["output"] for rank in found]), output)
    close(torch.cat([rank["x"] for rank in found]), x.grad)
    close(torch.cat([rank["bare"] for rank in found]), nn.BatchNorm2d(CHANNELS, affine=False).double()(x.detach()))
    for name, parameter in norm.named_parameters():
        close(sum(rank["gradients"][name] for rank in found), parameter.grad)
    for rank in found:
        for name, buffer in norm.named_buffers():
            close(rank["state"][name], buffer)
    close(torch.cat([rank["evaluated"] for rank in found]), norm.eval()(x))


@pytest.mark.parametrize("training", [True, False])
def test_without_a_process_group_it_is_batch_norm(training: bool) -> None:
    norm, sync = started_norm().train(training), SyncBatchNorm2d(CHANNELS).double().train(training)
    sync.load_state_dict(norm.state_dict())
    x = torch.randn(4, CHANNELS, 3, 3, dtype=torch.float64)
    assert torch.equal(sync(x), norm(x))
    assert torch.equal(sync.running_var, norm.running_var)
