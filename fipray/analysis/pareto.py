"""Pareto fronts of frames."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fipray.border import checked
from fipray.errors import UsageError


@checked
def pareto(frame: pd.DataFrame, better: Sequence[str] = ("clean_accuracy", "robust_accuracy")) -> pd.DataFrame:
    """Select the rows that no other row dominates.

    A row dominates another if it is at least as good in all columns and better in one. Costs O(N^2) time and memory for
    N rows.

    Args:
        frame: rows to compare.
        better: numeric columns in which higher is better; negate those in which lower is better.

    Returns:
        The front, in the order of the rows. Of equal rows all are kept; rows with NaN in these columns are dropped.

    Raises:
        UsageError: for columns that are missing, not numeric, or named twice.
    """
    if missing := [column for column in better if column not in frame] or not better:
        raise UsageError(f"cannot compare columns {missing or better}; the columns are: {', '.join(map(str, frame))}")
    check_numbers(frame, better)
    # Comparisons with NaN are false, so nothing would dominate such a row, and it would be on every front.
    known = frame[frame[list(better)].notna().all(axis=1)]
    values = known[list(better)].to_numpy(float)
    # as_good[i, j]: row i is at least as good as row j in all columns.
    as_good = (values[:, None] >= values[None]).all(-1)
    dominated = (as_good & ~as_good.T).any(0)
    return known[np.logical_not(dominated)]


def check_numbers(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Check that columns hold numbers.

    Args:
        frame: the frame.
        columns: names of columns in it.

    Raises:
        UsageError: for a column that is not numeric, or whose name occurs twice.
    """
    for column in columns:
        found = frame[column]
        if found.ndim > 1 or not pd.api.types.is_numeric_dtype(found.dtype):
            kind = "occurs twice" if found.ndim > 1 else f"holds {found.dtype}"
            raise UsageError(f"column {column!r} {kind}; a comparison needs one column of numbers of each name")
