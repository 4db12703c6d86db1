"""Triton's compiler takes the kernels that its interpreter runs elsewhere in the tests, which takes more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
KERNELS = {
    "triton_norm": {"_moments", "_statistics", "_normalize", "_gradient_sums", "_gradient_means", "_gradient"},
    "triton_bias": {"_finish", "_carry_back"},
    "triton_standardization": {"_standardize", "_carry_back"},
}


def test_every_kernel_compiles_for_an_h100(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("kernels_for_gpu.py")],
        env=kept | {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, set[str]] = {}
    for line in done.stdout.splitlines():
        module, name, size = line.split()
        assert int(size) > 0
        found.setdefault(module.removeprefix("models.layers."), set()).add(name)
    assert found == KERNELS
