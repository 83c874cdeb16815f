"""Labels of a source as classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fipray.errors import DataError


def classes_of(name: str, labels: NDArray[Any]) -> tuple[NDArray[np.int64] | None, str]:
    """Convert labels to classes.

    Args:
        name: name of the labels, for messages.
        labels: numbers [N] or [N, 1], or one-hot rows [N, C].

    Returns:
        Classes [N], integers from 0, or None for targets of a regression; and a note on what was done, or "".

    Raises:
        DataError: for negative classes, rows that are not one-hot, and any other labels.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        return _of_rows(name, labels), f"{name} are one-hot rows: their classes are taken"
    if labels.ndim != 1:
        raise DataError(f"{name} must be classes [N]; shape {labels.shape} was given")
    if not np.isfinite(labels).all():
        raise DataError(f"{name} contain NaN or infinity: leave these examples out")
    note = ""
    if labels.dtype.kind == "f":
        # Targets of a regression may be whole numbers, too, but hardly all numbers from 0.
        if not np.array_equal(found := np.unique(labels), np.arange(len(found))):
            return None, f"{name} are real numbers and no classes: they are left out, and accuracy is not measured"
        note = f"{name} are {labels.dtype}, all whole numbers from 0: they are taken as classes"
    classes = labels.astype(np.int64)
    if classes.min() < 0:
        raise DataError(
            f"{name} must be classes from 0, and contain {classes.min()}: leave out examples without a class, and "
            "number the classes 0, 1, ... in the order of the network's outputs"
        )
    return classes, note


def _of_rows(name: str, rows: NDArray[Any]) -> NDArray[np.int64]:
    if not (np.isin(rows, (0, 1)).all() and (rows.sum(1) == 1).all()):
        raise DataError(
            f"{name} have shape {rows.shape} and are not one-hot: several classes or probabilities for one example are "
            "not supported; give one class each, as .argmax(1) does"
        )
    return rows.argmax(1).astype(np.int64)


def text_refused(name: str, example: Any) -> DataError:
    """Error for labels that are text.

    Args:
        name: name of the labels.
        example: one of them.

    Returns:
        The error, to raise.
    """
    return DataError(
        f"{name} are text, such as {str(example)!r}: give integers in the order of the network's outputs, for "
        "alphabetical order as np.unique(labels, return_inverse=True)[1]"
    )
