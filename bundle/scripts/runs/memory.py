"""Memory of a run: a scan's volumes and a network's layers come and go by the thousand."""

from __future__ import annotations

import ctypes
import os
import platform

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_MOST = 2**31 - 1  # mallopt takes an int


def keep_freed_memory() -> bool:
    """
    Keep memory that arrays free for the arrays that follow, instead of giving it back to the system.

    glibc maps each large array anew, and the system clears its pages, which took a fifth of the CPU time of a
    prediction on a virtual machine. The process holds more memory at its peak instead. ``benchmarks/inference.py``
    measures both, without this in its row ``returned``. It holds for the processes that are forked later, too.

    Returns:
        Whether it holds: not with another C library than glibc, nor where the environment has settings of its own for
        it, such as ``MALLOC_TRIM_THRESHOLD_``.

    References:
        mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, _MOST))
