"""The benchmark of computed weights: that it measures what it says, and refuses what would be wrong."""

import pytest
import torch

from models.layers.kernels import Convolutions, Kernels
from scripts import benchmark_weights
from scripts.benchmark_weights import WeightsConfig, alone, benchmark
from utils.errors import EnvironmentFault, NumericsError


@pytest.mark.parametrize("norm", ["ws_bn", "pws"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_each_method_is_told(norm: str, precision: str, capfd: pytest.CaptureFixture[str]) -> None:
    benchmark(WeightsConfig("resnet20", norm, precision=precision, repeats=1))
    lines = capfd.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["alone", "together", *(["triton"] * torch.cuda.is_available())]
    assert all("copies" in line for line in lines)


def test_weights_that_are_wrong_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(convs: Convolutions) -> Kernels:
        return {conv: 1.001 * kernel for conv, kernel in alone(convs).items()}

    monkeypatch.setitem(benchmark_weights.METHODS, "together", lambda: wrong)
    with pytest.raises(NumericsError, match=r"weights by together are 1\.0e-03 off"):
        benchmark(WeightsConfig("resnet20", precision="fp32"))


def test_triton_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentFault, match="needs a GPU"):
        benchmark(WeightsConfig(methods=("triton",)))
