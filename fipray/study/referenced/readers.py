"""Processes that read and decode examples for a worker."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fipray.errors import DataError
from fipray.study.referenced.opening import forget, opened
from fipray.study.referenced.reference import DataRef


def read_by_processes(ref: DataRef, part: str, rows: NDArray[np.int64], seed: int) -> NDArray[Any]:
    """Read examples in several processes, which open the source for themselves.

    Args:
        ref: the reference; `ref.readers` is the number of processes.
        part: name of the source.
        rows: indices [M] of the examples, at least one.
        seed: of random transforms, if the data is augmented.

    Returns:
        Inputs [M, ...], as one process reads them.

    Raises:
        DataError: for examples that cannot be read, and for a process that ends.
    """
    pieces = [piece for piece in np.array_split(rows, ref.readers) if len(piece)]
    pool = _pool(ref.readers)
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns of forks of processes with threads. These processes touch neither a GPU nor Ray.
            warnings.simplefilter("ignore", DeprecationWarning)
            found = [pool.submit(_read, ref, part, piece.tolist(), seed) for piece in pieces]
        return np.concatenate([each.result() for each in found])
    except BrokenProcessPool as error:
        _pool.cache_clear()  # the next call starts new ones
        raise DataError(
            f"a process that reads {part!r} of {ref.function} ended; it may have been killed for memory: set fewer "
            "readers, DataRef(..., readers=0) to read in the worker itself"
        ) from error


@cache
def _pool(num_readers: int) -> ProcessPoolExecutor:
    # Forked, as the readers of torch's DataLoader: other kinds run the user's main module once more.
    return ProcessPoolExecutor(num_readers, get_context("fork"), initializer=_begin, initargs=(os.getpid(),))


def _begin(parent: int) -> None:
    torch.set_num_threads(1)  # the parent's OpenMP threads do not exist here
    forget()  # files that the parent has open have one position for both
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent was killed, of which its queue does not tell it."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _read(ref: DataRef, part: str, rows: Sequence[int], seed: int) -> NDArray[Any]:
    found, _, _ = opened(ref)[part].read(rows, seed)
    return found
