"""Numbers as texts for people: accuracies with their intervals."""

import numpy as np


def percent(fraction: float, low: float = np.nan, high: float = np.nan) -> str:
    """Write a fraction in percent, with its interval if that is known.

    Args:
        fraction: fraction, 0..1; NaN for none.
        low: lower bound of its interval.
        high: upper bound of its interval.

    Returns:
        A text such as "97.2" or "97.2 [96.1, 98.0]"; empty for NaN.
    """
    if np.isnan(fraction):
        return ""
    text = f"{100 * fraction:.1f}"
    return text if np.isnan(low) else f"{text} [{100 * low:.1f}, {100 * high:.1f}]"
