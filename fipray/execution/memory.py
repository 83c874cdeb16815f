"""Memory of a worker with a large network."""

from __future__ import annotations

import ctypes
import sys

LARGE = 4_000_000  # weights above which page faults of the allocator cost more than the memory that is kept
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of mallopt, from glibc's malloc.h


def keep_freed_memory(num_weights: int) -> bool:
    """Let this process keep memory that is freed, for a network of many weights. On glibc only.

    By default glibc maps every vector of this size anew and returns it when it is freed, so that each operation of a
    step faults all its pages in again.

    Args:
        num_weights: number of weights.

    Returns:
        Whether it was done; it lasts as long as the process.
    """
    if num_weights < LARGE or sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries do not have it
    return mallopt is not None and bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
