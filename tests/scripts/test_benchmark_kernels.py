"""The benchmark of fused layers: that it measures what it says, and refuses what would be wrong."""

import pytest
import torch

from scripts import benchmark_kernels
from scripts.benchmark_kernels import KernelsConfig, benchmark, check, made
from utils.errors import EnvironmentFault, NumericsError


def test_each_layer_is_timed_with_and_without_a_shortcut(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark_kernels, "SHAPES", ((32, 3),))
    benchmark(KernelsConfig(("bn", "pws"), ("plain",), batch_size=2, precision="fp32", repeats=1))
    lines = capfd.readouterr().out.splitlines()[1:]
    assert [line.split()[:2] for line in lines] == [["bn", "32"], ["bn", "added"], ["pws", "32"], ["pws", "added"]]
    assert all("plain" in line and "passes" in line for line in lines)


def test_triton_agrees_with_plain_before_it_is_timed() -> None:
    x, shortcut, seed = torch.randn(3, 2, 32, 2, 3)
    check(made("gn", 32, "triton"), "gn", [x, shortcut], seed, 1e-5)
    wrong = made("gn", 32, "triton")
    torch.nn.init.constant_(wrong.norm.weight, 1.1)
    with pytest.raises(NumericsError, match="gn of 32 channels is"):
        check(wrong, "gn", [x, shortcut], seed, 1e-5)


def test_triton_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentFault, match="needs a GPU"):
        benchmark(KernelsConfig(methods=("triton",)))
