"""What sinks show: measures at the points of paths by step, robustness of networks, and the summary of all results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fipray.execution.jobs import Tables
from fipray.printable import without_credentials
from fipray.records.encoding import plain_json
from fipray.records.tables import FLOAT, POINTS

if TYPE_CHECKING:
    import pandas as pd

# All columns of floats; "seconds" is the time axis of MLflow, not a measure.
MEASURES = tuple(column.name for column in POINTS.columns if column.type == FLOAT and column.name != "seconds")

Row = Mapping[str, Any]
SUMMARY = "summary"


@dataclass(frozen=True)
class EvaluatedNetwork:
    """Robustness of a network or ensemble.

    Args:
        study: name of the study.
        id: ID of the evaluation.
        name: name of the path or ensemble, or "base".
        kind: kind of the network.
        figures: accuracies by name: `clean_accuracy`, and `robust_accuracy/ATTACK` for each attack.
        facts: epsilon, norm and number of members.
    """

    study: str
    id: str
    name: str
    kind: str
    figures: Mapping[str, float]
    facts: Mapping[str, Any]


def networks_in(tables: Tables) -> Iterator[EvaluatedNetwork]:
    """Join the rows of each evaluated network.

    Args:
        tables: rows, of which those of `robustness` are used.

    Yields:
        The networks.
    """
    rows = defaultdict(list)
    for row in tables.get("robustness", ()):
        rows[row["robustness_id"]].append(row)
    for id, own in rows.items():
        attacked = [row for row in own if row["attack"] != "none"]
        figures = {f"robust_accuracy/{row['attack']}": float(row["robust_accuracy"]) for row in attacked}
        figures["clean_accuracy"] = float(own[0]["clean_accuracy"])
        facts = {name: attacked[0][name] for name in ("epsilon", "norm", "num_members", "num_examples")}
        yield EvaluatedNetwork(own[0]["study"], id, own[0]["name"], own[0]["kind"], figures, facts)


def values_in(tables: Tables) -> dict[str, dict[str, Any]]:
    """Values of the trials of a search.

    Args:
        tables: rows, of which those of `trials` are used.

    Returns:
        Values by dotted name, by the ID of the path.
    """
    return {row["path_id"]: plain_json(row["config_json"]) for row in tables.get("trials", ())}


def weights_address(directory: str | None, path: Row) -> str:
    """Address of the weights at the end of a path.

    Args:
        directory: results directory; None if unknown.
        path: a row of `paths`.

    Returns:
        The address, without credentials; within the directory if that is unknown.
    """
    file = str(path["weights_file"])
    return without_credentials(f"{directory.rstrip('/')}/{file}" if directory else file)


def summary_of(directory: str) -> tuple[str, pd.DataFrame]:
    """Summary of a results directory, a row per network.

    Args:
        directory: results directory.

    Returns:
        Name of the study, and the table.
    """
    from fipray import analysis  # loads slowly

    results = analysis.load(directory)
    return str(results.manifest["study"]), analysis.summary(results)


def paths_in(tables: Tables) -> Iterator[tuple[Row, list[Row]]]:
    """Join the rows of paths and points.

    Args:
        tables: rows, of which those of `paths` and `points` are used.

    Yields:
        The row of each path, and the rows of its points in order of their steps.
    """
    points = defaultdict(list)
    for row in tables.get("points", ()):
        points[row["path_id"]].append(row)
    for path in tables.get("paths", ()):
        yield path, sorted(points[path["path_id"]], key=lambda row: row["step"])


def scalars(point: Row) -> dict[str, float]:
    """Measures at a point.

    Args:
        point: a row of `points`.

    Returns:
        Values by column, without those that were not measured.
    """
    return {name: float(point[name]) for name in MEASURES if point[name] is not None}
