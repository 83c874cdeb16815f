"""Rows as Arrow tables, if they are what the schema says: every column, of its type, and no key twice."""

from collections.abc import Iterable
from numbers import Integral, Real

import pyarrow as pa

from fipray.errors import UsageError
from fipray.records.schema import (
    BOOLEAN,
    BOOLEANS,
    FLOAT,
    INT32,
    INT64,
    SCHEMA_VERSION,
    TEXT,
    VERSION_COLUMN,
    Column,
    Rows,
    Table,
    table_named,
)

_NONE = type(None)
_ACCEPTED: dict[pa.DataType, type] = {
    TEXT: str,
    INT32: Integral,
    INT64: Integral,
    FLOAT: Real,
    BOOLEANS: list,
    BOOLEAN: bool,
}
_EXACT: dict[pa.DataType, set[type]] = {
    TEXT: {str},
    INT32: {int},
    INT64: {int},
    FLOAT: {float, int},
    BOOLEANS: set(),
    BOOLEAN: {bool},
}
_PLAIN = {  # types of values that need no closer look
    (type, optional): types | ({_NONE} if optional else set())
    for type, types in _EXACT.items()
    for optional in (False, True)
}


def to_arrow(name: str, rows: Rows) -> pa.Table:
    """The rows as an Arrow table with the full schema of the table `name`.

    A row names every column but `schema_version`, which is filled in here; a value that does not exist is None.
    Raises UsageError for missing, unknown, wrongly typed or null columns, and for two rows of one key.
    """
    table = table_named(name)
    rows = [{**row, VERSION_COLUMN.name: SCHEMA_VERSION} for row in rows]
    names = set(table.schema.names)
    for number, row in enumerate(rows):
        if row.keys() != names:
            _check_names(table, row.keys(), f"row {number}")
    arrays = [_array(table, column, [row[column.name] for row in rows]) for column in table.columns]
    num_keys = len({tuple(row[column] for column in table.key) for row in rows})
    if num_keys != len(rows):
        raise UsageError(f"{len(rows)} rows for table {name!r} have only {num_keys} different {table.key}")
    return pa.Table.from_arrays(arrays, schema=table.schema)


def _check_names(table: Table, names: Iterable[str], where: str) -> None:
    given, wanted = set(names), set(table.schema.names)
    problems = [
        f"{what} {', '.join(sorted(some))}"
        for what, some in (("lacks", wanted - given), ("has the unknown", given - wanted))
        if some
    ]
    if problems:
        valid = ", ".join(table.schema.names)
        raise UsageError(f"{where} for table {table.name!r} {' and '.join(problems)}; its columns are {valid}")


def _array(table: Table, column: Column, values: list[object]) -> pa.Array:
    # Arrow alone would cut 3.5 down to 3 for an integer column, and take None anywhere.
    plain = set(map(type, values)) <= _PLAIN[column.type, column.optional]
    for number, value in enumerate(() if plain else values):
        if value is None and column.optional:
            continue
        absent = isinstance(value, list) and None in value
        if (
            not isinstance(value, _ACCEPTED[column.type])
            or isinstance(value, bool) != (column.type == BOOLEAN)
            or absent
        ):
            kind = f"{column.type}{' or None' if column.optional else ''}"
            raise UsageError(f"row {number} for table {table.name!r}: {column.name} is {value!r}, must be {kind}")
    try:
        return pa.array(values, column.type)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise UsageError(f"{column.name} for table {table.name!r} does not fit {column.type}: {error}") from error
