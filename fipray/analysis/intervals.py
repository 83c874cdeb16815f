"""95 % intervals: of accuracies from counts (Wilson), and of means over runs (Student)."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Z = 1.959963984540054  # 0.975 quantile of the standard normal distribution

Bounds = tuple[NDArray[np.float64], NDArray[np.float64]]


def wilson(fraction: ArrayLike, num_examples: ArrayLike) -> Bounds:
    """Wilson's score interval of a fraction that was counted (Wilson 1927), at 95 %.

    With z = 1.96, its centre is `(p + z^2/2n) / (1 + z^2/n)` and its half width
    `z sqrt(p (1 - p)/n + z^2/4n^2) / (1 + z^2/n)`. It stays within 0..1, and has a width at p = 0 and p = 1, too.

    Args:
        fraction: fractions p, 0..1, of any shape.
        num_examples: numbers n that were counted, above 0; NaN where unknown. Broadcast with the fractions.

    Returns:
        Lower and upper bounds, 0..1; NaN where the fraction or the number is.
    """
    p, n = np.asarray(fraction, float), np.asarray(num_examples, float)
    scale = 1 + _Z**2 / n
    centre = (p + _Z**2 / (2 * n)) / scale
    half = _Z * np.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2)) / scale
    # Exact at the ends, where rounding would leave the bound off by one unit in the last place.
    low, high = np.where(p == 0, 0.0, centre - half), np.where(p == 1, 1.0, centre + half)
    unknown = np.isnan(p + n)
    return np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)


def student(runs: ArrayLike) -> Bounds:
    """Interval of the mean over runs, at 95 %: `mean +- t s / sqrt(k)`, with t of k - 1 degrees of freedom.

    Args:
        runs: values [k, ...], one row per run.

    Returns:
        Lower and upper bounds [...]; NaN for fewer than two runs.
    """
    from scipy.special import stdtrit  # loads slowly, and only repeated runs need it

    values = np.asarray(runs, float)
    k = len(values)
    if k < 2:
        return np.full(values.shape[1:], np.nan), np.full(values.shape[1:], np.nan)
    half = stdtrit(k - 1, 0.975) * values.std(axis=0, ddof=1) / np.sqrt(k)
    mean = values.mean(axis=0)
    return mean - half, mean + half


def spread(runs: ArrayLike, seeds: str) -> Bounds:
    """Bounds of a band over runs.

    Args:
        runs: values [k, ...], one row per run.
        seeds: "interval" for `student`, "range" for the least and greatest value.

    Returns:
        Lower and upper bounds [...].
    """
    if seeds == "range":
        values = np.asarray(runs, float)
        return values.min(axis=0), values.max(axis=0)
    return student(runs)


def half_width(fraction: ArrayLike, num_examples: ArrayLike) -> Any:
    """Half the width of Wilson's interval.

    Args:
        fraction: fractions, 0..1.
        num_examples: numbers that were counted.

    Returns:
        Half widths; NaN where unknown.
    """
    low, high = wilson(fraction, num_examples)
    return (high - low) / 2
