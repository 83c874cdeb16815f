"""Paired differences of two networks' accuracies, with 95 % intervals and a verdict; also at equal clean accuracy.

Imported by `python -m benchmarks.comparisons.ensembles`, whose table of comparisons shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from fipray.analysis.intervals import student

Verdict = Literal["ahead", "behind", "level"]
_Z = 1.959963984540054  # 0.975 quantile of the standard normal distribution


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences and the bounds of its 95 % interval, all as fractions."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """Sign of an interval that lies on one side of 0; level where it holds 0."""
        return "ahead" if self.low > 0 else "behind" if self.high < 0 else "level"

    def __str__(self) -> str:
        return f"{100 * self.mean:+.2f} [{100 * self.low:+.2f}, {100 * self.high:+.2f}] {self.verdict}"


def over_seeds(ours: ArrayLike, theirs: ArrayLike) -> Difference:
    """Difference of accuracies [S], S at least 2, that share seeds: Student's interval of the mean over the seeds."""
    differences = np.asarray(ours, float) - np.asarray(theirs, float)
    low, high = student(differences)
    return Difference(float(differences.mean()), float(low), float(high))


def over_examples(ours: ArrayLike, theirs: ArrayLike) -> Difference:
    """Difference of accuracies on the same examples [N], with the standard error over these.

    Of right and wrong answers (1 and 0) it is that of McNemar's test: with b examples right for us alone and c for them
    alone, `(b - c) / N +- z sqrt(b + c - (b - c)^2 / N) / N`. Answers of a mixture of networks may lie in between.
    """
    differences = np.asarray(ours, float) - np.asarray(theirs, float)
    half = _Z * differences.std() / np.sqrt(len(differences))
    mean = float(differences.mean())
    return Difference(mean, mean - float(half), mean + float(half))


@dataclass(frozen=True)
class Between:
    """Point on the straight line between two of several points: `(1 - weight) lower + weight upper`."""

    lower: int
    upper: int
    weight: float

    def of(self, values: Sequence[ArrayLike]) -> np.ndarray:
        """Interpolate values [...] of the points: accuracies, or the answers on each example."""
        lower, upper = (np.asarray(values[index], float) for index in (self.lower, self.upper))
        return (1 - self.weight) * lower + self.weight * upper


def at_clean(cleans: Sequence[float], wanted: float) -> Between | None:
    """Place a clean accuracy between those of several points, which neighbour each other in it.

    What is interpolated there can be had: of two networks, answer each input with one that is drawn at random.

    Args:
        cleans: clean accuracies of the points.
        wanted: clean accuracy.

    Returns:
        The place; None where no two points enclose it.
    """
    order = np.argsort(cleans, kind="stable")
    for lower, upper in pairwise(order):
        width = cleans[upper] - cleans[lower]
        if cleans[lower] <= wanted <= cleans[upper]:
            return Between(int(lower), int(upper), (wanted - cleans[lower]) / width if width else 0.0)
    return None
