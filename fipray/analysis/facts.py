"""What the tables say of one network: its size, sparsity and accuracies."""

import math
from dataclasses import dataclass
from typing import Any, final

import pandas as pd

from fipray.analysis.results import BASE, Results
from fipray.analysis.summary_table import SPARSITY
from fipray.analysis.table import NO_ATTACK, attacked
from fipray.border import checked


@final
@dataclass(frozen=True)
class Facts:
    """Measures of one network, as its tables hold them.

    Args:
        name: name of the network.
        kind: "base", "path", "variant" or "ensemble".
        sparsity: fraction of weights that are zero, 0..1; None for an ensemble.
        functional_distance_held_out: to the base network if it was evaluated, otherwise to its path's start; None if
            it was not measured.
        clean_accuracy: on all test inputs; None if it was not measured.
        attacks: rows of `robustness` under attack, `worst` the last of each threat model.
    """

    name: str
    kind: str
    sparsity: float | None
    functional_distance_held_out: float | None
    clean_accuracy: float | None
    attacks: pd.DataFrame

    @property
    def sparsity_text(self) -> str:
        """Sparsity as the summary shows it; empty for an ensemble."""
        return "" if self.sparsity is None else SPARSITY.format(self.sparsity)


@checked
def facts(results: Results, name: str) -> Facts:
    """Collect what the tables say of a network.

    Args:
        results: results of a study.
        name: name of a network, or path_id of a path.

    Returns:
        Its measures.

    Raises:
        UsageError: for an unknown name.
    """
    results.members(name)
    kind, walked = _walked(results, name)
    # Names of paths need not be unique in a search, whose evaluations are rows of single paths all the same.
    of_name = results.robustness[results.robustness["name"] == walked.get("network", walked.get("name", name))]
    is_ambiguous = kind == "path" and int((results.paths["name"] == walked["name"]).sum()) > 1
    judged = of_name.head(0) if is_ambiguous else of_name
    unattacked = judged[judged["attack"] == NO_ATTACK].sort_values("num_examples", kind="stable").tail(1)
    # The evaluation is on all test inputs, and relative to the base; without one the path's own values are given.
    found = {**walked, **(unattacked.iloc[0].to_dict() if len(unattacked) else {})}
    every = attacked(results)
    return Facts(
        name=name,
        kind=kind,
        sparsity=_number(found.get("sparsity")),
        functional_distance_held_out=_number(found.get("functional_distance_held_out")),
        clean_accuracy=_number(found.get("clean_accuracy")),
        attacks=every[every["robustness_id"].isin(judged["robustness_id"])],
    )


def _walked(results: Results, name: str) -> tuple[str, dict[str, Any]]:
    """Kind of a network, and its row of `points`, `paths` or `variants`; no row for an ensemble."""
    if name == BASE:
        from_base = results.paths.loc[results.paths["start"] == BASE, "path_id"]
        rows = results.points[(results.points["step"] == 0) & results.points["path_id"].isin(from_base)]
        return "base", {**_first(rows), "name": BASE}
    paths = results.paths[(results.paths["name"] == name) | (results.paths["path_id"] == name)]
    if len(paths):
        return "path", _first(paths)
    variants = results.variants[results.variants["network"] == name]
    return ("variant", _first(variants)) if len(variants) else ("ensemble", {})


def _first(rows: pd.DataFrame) -> dict[str, Any]:
    return {str(key): value for key, value in rows.iloc[0].to_dict().items()} if len(rows) else {}


def _number(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
