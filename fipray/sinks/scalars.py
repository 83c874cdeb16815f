"""What sinks show of a point: the columns of its row that hold measures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from fipray.execution.jobs import Tables
from fipray.records.tables import FLOAT, POINTS

MEASURES = tuple(column.name for column in POINTS.columns if column.type == FLOAT and column.name != "seconds")

Row = Mapping[str, Any]


def paths_in(tables: Tables) -> Iterator[tuple[Row, list[Row]]]:
    """The row of each path that ended, and those of its points, by step."""
    points = defaultdict(list)
    for row in tables.get("points", ()):
        points[row["path_id"]].append(row)
    for path in tables.get("paths", ()):
        yield path, sorted(points[path["path_id"]], key=lambda row: row["step"])


def scalars(point: Row) -> dict[str, float]:
    """The measures of a point that were made, by column."""
    return {name: float(point[name]) for name in MEASURES if point[name] is not None}
