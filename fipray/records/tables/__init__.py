"""Tables of a results directory: one row class per table, from which the Arrow schema is derived.

Every Parquet file of a table carries its full schema: `schema_version` as a column and as metadata of the file,
description and unit as metadata of each column. Any one file therefore says how to read it.
"""

from fipray.errors import UsageError
from fipray.records.tables.columns import (
    BOOLEAN,
    BOOLEANS,
    FLOAT,
    INT32,
    INT64,
    SCHEMA_VERSION,
    TEXT,
    VERSION_COLUMN,
    Column,
    Field,
    Rows,
    Table,
    as_mapping,
)
from fipray.records.tables.networks import (
    MEASURES,
    PER_EXAMPLE,
    ROBUSTNESS,
    TRANSFER,
    MeasuresRow,
    PerExampleRow,
    RobustnessRow,
    TransferRow,
)
from fipray.records.tables.paths import PATHS, ROUNDS, TRIALS, PathRow, RoundRow, TrialRow
from fipray.records.tables.points import (
    POINT_DISTANCES,
    POINT_MEASURES,
    POINTS,
    TASKS,
    VARIANTS,
    PointDistanceRow,
    PointMeasureRow,
    PointRow,
    TaskRow,
    VariantRow,
)

__all__ = [
    "BOOLEAN",
    "BOOLEANS",
    "FLOAT",
    "INT32",
    "INT64",
    "MEASURES",
    "PATHS",
    "PER_EXAMPLE",
    "POINTS",
    "POINT_DISTANCES",
    "POINT_MEASURES",
    "ROBUSTNESS",
    "ROUNDS",
    "SCHEMA_VERSION",
    "TABLES",
    "TASKS",
    "TEXT",
    "TRANSFER",
    "TRIALS",
    "VARIANTS",
    "VERSION_COLUMN",
    "Column",
    "Field",
    "MeasuresRow",
    "PathRow",
    "PerExampleRow",
    "PointDistanceRow",
    "PointMeasureRow",
    "PointRow",
    "RobustnessRow",
    "RoundRow",
    "Rows",
    "Table",
    "TaskRow",
    "TransferRow",
    "TrialRow",
    "VariantRow",
    "as_mapping",
    "table_named",
]

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        PATHS,
        POINTS,
        ROBUSTNESS,
        PER_EXAMPLE,
        TRANSFER,
        MEASURES,
        ROUNDS,
        TRIALS,
        VARIANTS,
        TASKS,
        POINT_MEASURES,
        POINT_DISTANCES,
    )
}


def table_named(name: str) -> Table:
    """Look up a table by its name.

    Args:
        name: name of the table.

    Returns:
        The table.

    Raises:
        UsageError: for an unknown name; the message lists the tables.
    """
    if name not in TABLES:
        raise UsageError(f"there is no table {name!r}; the tables are {', '.join(TABLES)}")
    return TABLES[name]
