"""Normalisation of the arrays of a study to native byte order and C order."""

from __future__ import annotations

from typing import Any

import numpy as np

from fipray.errors import DataError
from fipray.study.referenced import Array, ReferencedArray, extremes

_LONGEST_FLOAT = 8  # bytes; torch has no longdouble


def normalised(name: str, array: Any) -> Any:
    """Convert an array to native byte order and C order.

    Args:
        name: name of the array, for messages.
        array: numpy array of numbers. Any other object is returned unchanged; its type is checked elsewhere.

    Returns:
        Array with the same values; a view of the given one where it has this layout already.

    Raises:
        DataError: for masked arrays, and for dtypes that torch does not have.
    """
    if not isinstance(array, np.ndarray):
        return array
    if isinstance(array, np.ma.MaskedArray):
        raise DataError(f"{name} is a masked array, which a network cannot take: give {name}.filled(value)")
    kind = array.dtype.kind
    if kind == "c":
        raise DataError(f"{name} has dtype {array.dtype}: give real and imaginary parts as separate numbers")
    if kind not in "biuf" or (kind == "f" and array.dtype.itemsize > _LONGEST_FLOAT):
        raise DataError(
            f"{name} has dtype {array.dtype}, which torch does not have: convert it, for example by .astype(np.float32)"
        )
    # The view drops subclasses such as np.matrix, which index and multiply differently.
    # torch refuses other byte orders, and the digest of the data hashes memory, which must not depend on the layout.
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C").view(np.ndarray)


def check_labels(name: str, inputs: Array, labels: Any) -> None:
    """Check that there is one class, an integer from 0, for each input.

    Args:
        name: name of the labels, for messages.
        inputs: inputs [N, ...].
        labels: labels to check.

    Raises:
        DataError: for labels that are not integers from 0 in a numpy array [N].
    """
    if not isinstance(labels, np.ndarray):
        raise DataError(
            f"{len(inputs)} inputs need {len(inputs)} labels, but {name} has type {type(labels).__name__}: give a "
            "numpy array"
        )
    # Before the general check of shapes, whose message would not say how to convert one-hot rows.
    if labels.ndim == 2 and len(labels) == len(inputs) and labels.shape[1] > 1:
        raise DataError(
            f"labels are classes [N], but {name} has shape {labels.shape}: for one-hot rows give .argmax(1)"
        )
    if labels.shape != (len(inputs),):
        raise DataError(f"{len(inputs)} inputs need {len(inputs)} labels, but {name} has shape {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"labels must be integers, 0 for the first class, but {name} has dtype {labels.dtype}: give classes by "
            ".astype(np.int64), or no labels if the network is not a classifier"
        )
    if labels.min() < 0:
        raise DataError(f"labels must be 0 or more, but {name} contains {labels.min()}")


def shown(array: Array) -> str:
    """Describe an array, which itself would fill the screen.

    Args:
        array: inputs [N, ...].

    Returns:
        Its shape, dtype and range; of inputs by reference that of a few.
    """
    shape = " x ".join(str(size) for size in array.shape[1:])
    low, high = extremes(array)
    where = f", by reference: {array.ref.function} {array.ref.version!r}" if isinstance(array, ReferencedArray) else ""
    return f"{len(array):,} of shape {shape} in {array.dtype}, {low:.4g}..{high:.4g}{where}"
