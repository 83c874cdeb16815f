"""Numbers as texts for people: bounds of attacks, and accuracies with their intervals."""

import numpy as np


def epsilon_text(epsilon: float) -> str:
    """Write the bound of a threat model as people write it: 8/255, 0.1, 1.5.

    Args:
        epsilon: the bound.

    Returns:
        A fraction of 255 for multiples of 1/255 that are no short decimal, and a decimal for all others.
    """
    levels = epsilon * 255
    # 0.2 is 51/255, and nobody writes it so. The tolerance admits float32 and texts with six digits.
    is_short = float(f"{epsilon:.3g}") == epsilon
    if not is_short and round(levels) >= 1 and abs(levels - round(levels)) < 1e-4:
        return f"{round(levels)}/255"
    return f"{epsilon:g}"


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
