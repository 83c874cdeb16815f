"""Numbers in words: percentages, intervals, epsilons, durations and lists, as sentences and labels show them."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fipray.analysis.report.intervals import wilson

_PIXEL = 255  # epsilons are given in steps of 8-bit pixels
_NORMS = {"linf": "ℓ∞", "l2": "ℓ2"}
_MOST_NAMED = 4
_JOINED = "\u00a0"  # no-break space: a number and its unit stay on one line


def epsilon(value: float) -> str:
    """Bound of a threat model: 8/255 where it is a multiple of 1/255, otherwise a decimal number.

    Args:
        value: epsilon, 0 or more.

    Returns:
        Text such as "8/255" or "0.1". Multiples that are short decimals, such as 0.2 and 1, stay decimals.
    """
    short = f"{value:g}"
    # A finite text of at most three characters is exact here: 0.2 and not 51/255.
    if len(short) > 3 and np.isclose(value * _PIXEL, round(value * _PIXEL), rtol=0, atol=1e-4) and value < 1e6:
        return f"{round(value * _PIXEL)}/{_PIXEL}"
    return short


def threat(norm: str, bound: float) -> str:
    """Threat model as a short text.

    Args:
        norm: norm, such as "linf".
        bound: epsilon.

    Returns:
        Text such as "ℓ∞, ε = 8/255".
    """
    return f"{_NORMS.get(norm, norm)}, ε{_JOINED}={_JOINED}{epsilon(bound)}"


def percent(value: float) -> str:
    """Fraction in percent with one decimal.

    Args:
        value: fraction, 0..1.

    Returns:
        Text such as "98.2 %", with a no-break space.
    """
    return f"{100 * value:.1f}{_JOINED}%"


def accuracy(value: float, num_examples: float) -> str:
    """Accuracy in percent with its 95 % Wilson interval.

    Args:
        value: accuracy, 0..1.
        num_examples: number of examples that it is measured on; NaN if unknown.

    Returns:
        Text such as "98.2 % [97.5, 98.7]", without an interval if the number of examples is unknown.
    """
    low, high = wilson(value, num_examples)
    return percent(value) if np.isnan(low) else f"{percent(value)}{_JOINED}[{100 * low:.1f},{_JOINED}{100 * high:.1f}]"


def points(difference: float) -> str:
    """Difference of two accuracies in percentage points.

    Args:
        difference: difference, -1..1.

    Returns:
        Text such as "−3.4 points", with a minus sign that is no hyphen.
    """
    return f"{100 * difference:+.1f} points".replace("-", "−")


def number(value: float) -> str:
    """Write a number with three significant digits.

    Args:
        value: any number.

    Returns:
        Text such as "0.0123".
    """
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Duration in the units that suit it.

    Args:
        seconds: seconds, 0 or more.

    Returns:
        Text such as "4.2 s", "12 min 05 s" or "3 h 20 min".
    """
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def count(number: int, noun: str, plural: str = "") -> str:
    """Write a number with its noun.

    Args:
        number: how many.
        noun: singular.
        plural: plural; by default the noun with an s.

    Returns:
        Text such as "1 path" or "1,200 paths".
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def spread(values: "pd.Series[Any]", show: Any = number) -> str:
    """Range and median of some numbers.

    Args:
        values: at least one number.
        show: function from a number to its text.

    Returns:
        Text such as "0.01 to 0.2 (median 0.05)", or the number if there is one only.
    """
    least, middle, most = (show(value) for value in (values.min(), values.median(), values.max()))
    return least if least == most else f"{least} to {most} (median {middle})"


def listing(parts: Iterable[str], most: int = _MOST_NAMED) -> str:
    """Texts as a list in a sentence.

    Args:
        parts: texts.
        most: number of texts to show.

    Returns:
        Text such as "a, b and c", or "a, b and 7 more".
    """
    shown: Sequence[str] = list(parts)
    if len(shown) > most:
        shown = [*shown[: most - 1], f"{len(shown) - most + 1} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)
