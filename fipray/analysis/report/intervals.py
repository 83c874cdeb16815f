"""Confidence intervals of accuracies."""

from typing import Any

import numpy as np

Z_95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def wilson(accuracy: Any, num_examples: Any) -> tuple[Any, Any]:
    """95 % Wilson score interval of an accuracy, whose width is right near 0 and 1, too.

    Half-width `z / (1 + z^2/n) sqrt(p (1 - p) / n + z^2 / 4 n^2)` around `(p + z^2 / 2 n) / (1 + z^2/n)` (Wilson 1927).

    Args:
        accuracy: accuracies p, 0..1; numbers or arrays.
        num_examples: numbers of examples n they are measured on; NaN or 0 if unknown.

    Returns:
        Lower and upper ends, 0..1; NaN where the accuracy or the number of examples is unknown.
    """
    p, n = np.asarray(accuracy, float), np.asarray(num_examples, float)
    n = np.where(n > 0, n, np.nan)
    squared = Z_95**2 / n
    half = Z_95 * np.sqrt(p * (1 - p) / n + squared / (4 * n))
    low, high = (p + squared / 2 - half) / (1 + squared), (p + squared / 2 + half) / (1 + squared)
    # The ends are exactly 0 and 1 there, up to rounding.
    return np.where(p <= 0, 0 * n, low)[()], np.where(p >= 1, 1 + 0 * n, high)[()]
