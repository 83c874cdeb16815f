"""Arrays as a study takes them: in native byte order and C order, of numbers that torch knows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fipray.errors import DataError

_LONGEST_FLOAT = 8  # bytes: torch has no longer ones


def normalised(name: str, array: Any) -> Any:
    """An array of numbers with the same values, in native byte order and C order; the array itself where it has them.
    What is no array is given back, for others to refuse.

    Raises DataError for masked arrays, and for dtypes that torch has not.
    """
    if not isinstance(array, np.ndarray):
        return array
    if isinstance(array, np.ma.MaskedArray):
        raise DataError(f"{name} is a masked array, and a network takes no masks: give {name}.filled(value)")
    kind = array.dtype.kind
    if kind == "c":
        raise DataError(f"{name} has dtype {array.dtype}; give real and imaginary parts as numbers of their own")
    if kind not in "biuf" or (kind == "f" and array.dtype.itemsize > _LONGEST_FLOAT):
        raise DataError(
            f"{name} has dtype {array.dtype}, of which torch has no tensors: give numbers, such as by "
            ".astype(np.float32)"
        )
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C").view(np.ndarray)


def check_labels(name: str, inputs: NDArray[np.generic], labels: Any) -> None:
    """Raises DataError unless there is one class, an integer from 0, for each of the inputs."""
    if not isinstance(labels, np.ndarray):
        raise DataError(
            f"{len(inputs)} inputs need as many labels; {name} has type {type(labels).__name__}: give a numpy array"
        )
    if labels.ndim == 2 and len(labels) == len(inputs) and labels.shape[1] > 1:
        raise DataError(f"labels are classes [N]; {name} has shape {labels.shape}: of one-hot rows give .argmax(1)")
    if labels.shape != (len(inputs),):
        raise DataError(f"{len(inputs)} inputs need as many labels; {name} has shape {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"labels are integers, 0 for the first class; {name} has dtype {labels.dtype}: give classes by "
            f".astype(np.int64), or no labels where the network is no classifier"
        )
    if labels.min() < 0:
        raise DataError(f"labels begin with 0; {name} holds {labels.min()}")
