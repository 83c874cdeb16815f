"""Several runs of one path on one grid."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def on_one_grid(runs: Sequence[pd.DataFrame], x: str, quantity: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of several runs at common places.

    Args:
        runs: points of each run, in order.
        x: column with places, rising.
        quantity: column with values.

    Returns:
        Places [N], and values [k, N]. Values of runs whose places differ are interpolated linearly at all places
        between the greatest first and the least last one; nothing is extrapolated.
    """
    places = [run[x].to_numpy(float) for run in runs]
    values = [run[quantity].to_numpy(float) for run in runs]
    if all(np.array_equal(places[0], each) for each in places):
        return places[0], np.stack(values)
    begin, end = max(each[0] for each in places), min(each[-1] for each in places)
    grid = np.unique(np.concatenate(places))
    grid = grid[(grid >= begin) & (grid <= end)]
    return grid, np.stack([np.interp(grid, *pair) for pair in zip(places, values, strict=True)])
