"""Which results no other result beats."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fipray.border import checked
from fipray.errors import UsageError


@checked
def pareto(frame: pd.DataFrame, better: Sequence[str] = ("clean_accuracy", "robust_accuracy")) -> pd.DataFrame:
    """The rows, in their order, that no other row dominates: is at least as good in all of `better` and better in one.

    Higher is better in every column of `better`; negate what should be low. Of equal rows all are kept; rows with NaN
    there, none. O(rows^2). Raises UsageError for columns that are not there.
    """
    if missing := [column for column in better if column not in frame] or not better:
        raise UsageError(f"no columns {missing or better} to compare; there are: {', '.join(map(str, frame))}")
    check_numbers(frame, better)
    known = frame[frame[list(better)].notna().all(axis=1)]
    values = known[list(better)].to_numpy(float)
    as_good = (values[:, None] >= values[None]).all(-1)
    dominated = (as_good & ~as_good.T).any(0)
    return known[np.logical_not(dominated)]


def check_numbers(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise UsageError for columns that hold no numbers, or whose name is there twice."""
    for column in columns:
        found = frame[column]
        if found.ndim > 1 or not pd.api.types.is_numeric_dtype(found.dtype):
            kind = "is there twice" if found.ndim > 1 else f"holds {found.dtype}"
            raise UsageError(f"column {column!r} {kind}; networks are compared by one column of numbers each")
