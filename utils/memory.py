"""Freed memory of the host, kept for the next step."""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)


def keep_freed_memory() -> None:
    """What the main thread frees from now on stays with the process, where the C library is glibc.

    glibc maps each large tensor by itself and gives it back at once, so that the kernel has to fill the same pages with
    zeros in every step. Whoever has set glibc's malloc up for the process keeps that.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
