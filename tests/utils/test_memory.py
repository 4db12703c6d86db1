"""Freed memory stays with the process: page faults are counted in processes of their own."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = 64 * 2**20 // 4096  # of one tensor, if none of them is huge
TIMES = 10
COUNT = f"""
import resource
import torch
from utils.memory import keep_freed_memory

keep_freed_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({TIMES}):
        torch.full(({PAGES}, 1024), 1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(**environment: str) -> int:
    """Of the second ten tensors: until aligned blocks fit into each other's places, some are new."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-c", COUNT]
    done = subprocess.run(command, cwd=ROOT, env=kept | environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_tensor_that_comes_again_has_its_pages_already_unless_the_user_has_set_malloc_up() -> None:
    assert page_faults() < PAGES
    for chosen in ({"MALLOC_MMAP_THRESHOLD_": "1048576"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1048576"}):
        assert page_faults(**chosen) >= TIMES * PAGES
