"""Rules by which the result of a recipe is chosen among its networks once they are measured.

They are written into the manifest and applied by `fipray.analysis`, so that results of an unfinished run are known as
far as they can be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class SparsestWithin:
    """Result of a recipe: the sparsest variant of paths whose measure is within a bound, else the base network.

    Args:
        paths: names of the paths.
        measure: name of the measure.
        least: smallest value of the measure; None for a measure that must be small.
        most: largest value of the measure; None for a measure that must be large.
    """

    paths: tuple[str, ...]
    measure: str
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class FirstWithin:
    """Result of a recipe: the first of some evaluated networks that is within an allowance, else the base network.

    Args:
        networks: names of the networks.
        most: largest value of the column.
        column: column of `robustness` with a loss on held-out inputs, in the row without an attack.
    """

    networks: tuple[str, ...]
    most: float
    column: Literal["accuracy_loss_held_out", "nll_loss_held_out"] = "accuracy_loss_held_out"


@dataclass(frozen=True)
class FirstMeasured:
    """Result of a recipe: the first network by whose measure all paths end within an allowance, else the base network.

    Args:
        measures: name of the measure for each network, in order of preference.
        paths: names of the paths.
        most: largest value of the measure.
    """

    measures: dict[str, str]
    paths: tuple[str, ...]
    most: float


Rule = SparsestWithin | FirstWithin | FirstMeasured
_NAMES: Mapping[type, str] = {
    SparsestWithin: "sparsest_within",
    FirstWithin: "first_within",
    FirstMeasured: "first_measured",
}


def written(rule: Rule) -> dict[str, Any]:
    """Write a rule for the manifest.

    Args:
        rule: the rule.

    Returns:
        Its name and its fields, as plain values.
    """
    return {"rule": _NAMES[type(rule)], **vars(rule)}
