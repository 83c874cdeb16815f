"""Memory of a worker with a large network."""

from __future__ import annotations

import ctypes
import sys

LARGE = 4_000_000  # weights above which page faults of the allocator cost more than the memory that is kept
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of mallopt, from glibc's malloc.h


def keep_freed_memory(num_weights: int) -> bool:
    """Let this process keep memory that is freed, for a network of many weights. On glibc only.

    By default glibc maps every vector of this size anew and returns it when it is freed, so that each operation of a
    step faults all its pages in again. What is free already is returned first: checks of a network leave much behind.

    Args:
        num_weights: number of weights.

    Returns:
        Whether it was done; it lasts as long as the process.
    """
    if num_weights < LARGE or sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    mallopt = getattr(library, "mallopt", None)  # other C libraries do not have it
    if mallopt is None:
        return False
    library.malloc_trim(0)
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
