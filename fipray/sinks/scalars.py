"""Scalars that sinks show: the columns of `points` that hold measures, by step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from fipray.execution.jobs import Tables
from fipray.records.tables import FLOAT, POINTS

# All columns of floats; "seconds" is the time axis of MLflow, not a measure.
MEASURES = tuple(column.name for column in POINTS.columns if column.type == FLOAT and column.name != "seconds")

Row = Mapping[str, Any]


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
