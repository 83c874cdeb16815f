"""Validation of rows: conversion to Arrow tables on writing, and checks of tables on reading."""

from collections.abc import Iterable
from numbers import Integral, Real

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fipray.errors import UsageError
from fipray.records.encoding import plain_json
from fipray.records.tables import (
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
    # Never exact: the items of lists have to be checked, too.
    BOOLEANS: set(),
    BOOLEAN: {bool},
}
# Fast path: a column whose values have only these types is not checked value by value.
_PLAIN = {
    (type, optional): types | ({_NONE} if optional else set())
    for type, types in _EXACT.items()
    for optional in (False, True)
}


def to_arrow(name: str, rows: Rows) -> pa.Table:
    """Convert rows to an Arrow table with the full schema of a table.

    Args:
        name: name of the table.
        rows: mappings of column names to values, with every column except `schema_version`, which is filled in;
            None where there is no value.

    Returns:
        The Arrow table, in the order of the rows.

    Raises:
        UsageError: for missing or unknown columns, values of a wrong type or out of range, nulls in columns that are
            not optional, and two rows with the same key.
    """
    table = table_named(name)
    rows = [{**row, VERSION_COLUMN.name: SCHEMA_VERSION} for row in rows]
    names = set(table.schema.names)
    for number, row in enumerate(rows):
        if row.keys() != names:
            _check_names(table, row.keys(), f"row {number}")
    arrays = [_array(table, column, [row[column.name] for row in rows]) for column in table.columns]
    # Keys can hold no lists, so that tuples of their values are hashable.
    num_keys = len({tuple(row[column] for column in table.key) for row in rows})
    if num_keys != len(rows):
        raise UsageError(f"{len(rows)} rows for table {name!r} have only {num_keys} different {table.key}")
    return pa.Table.from_arrays(arrays, schema=table.schema)


def unfit_row(table: Table, rows: pa.Table) -> tuple[int, str] | None:
    """Find a row that `to_arrow` cannot have made.

    Args:
        table: the table that the rows were read from.
        rows: rows with the schema of the table.

    Returns:
        Index of such a row and what is wrong with it; None if all rows are valid.
    """
    for column in table.columns:
        values = rows[column.name]
        if values.null_count and not column.optional:
            return pc.index(values.is_null(), True).as_py(), f"no {column.name}"
        # Files may come from anywhere: what `to_arrow` refuses is refused here, too.
        if (row := _outside(column, values)) >= 0:
            return row, f"{column.name} {values[row]}, which must be {column.wanted}"
        if column == VERSION_COLUMN and (row := pc.index(pc.equal(values, SCHEMA_VERSION), False).as_py()) >= 0:
            return row, f"schema version {values[row]}, not {SCHEMA_VERSION}"
        if column.name.endswith("_json"):
            for row, text in enumerate(values.to_pylist()):
                try:
                    plain_json(text)
                except ValueError as error:
                    return row, f"a {column.name} that is not a plain JSON object ({error})"
    if "weights_file" in rows.column_names:
        has_file, has_digest = (rows[name].is_null() for name in ("weights_file", "weights_sha256"))
        if (row := pc.index(pc.equal(has_file, has_digest), False).as_py()) >= 0:
            return row, "only one of weights_file and weights_sha256"
    return _duplicate(table, rows)


def _outside(column: Column, values: pa.Array | pa.ChunkedArray) -> int:
    """Index of the first number out of the column's range (NaN included, unless allowed); -1 if there is none."""
    # Comparisons with null give null, so nulls pass here; with NaN they give false, so NaN is found.
    least, most = column.range
    if column.type in (INT32, INT64):
        return int(pc.index(pc.greater_equal(values, int(least)), False).as_py())  # counts have no upper bound
    if column.type != FLOAT:
        return -1
    fits = pc.and_(pc.greater_equal(values, least), pc.less_equal(values, most))
    if column.undefined:
        fits = pc.or_(fits, pc.is_nan(values))
    return int(pc.index(fits, False).as_py())


def _duplicate(table: Table, rows: pa.Table) -> tuple[int, str] | None:
    # One column after the other, rows of equal keys so far get equal numbers. Renumbering by np.unique after each
    # column keeps them below the number of rows, so the product cannot overflow.
    numbers = np.zeros(rows.num_rows, np.int64)
    for column in table.key:
        codes = rows[column].combine_chunks().dictionary_encode().indices.to_numpy()
        numbers = np.unique(numbers * (rows.num_rows + 1) + codes, return_inverse=True)[1]
    first = np.unique(numbers, return_index=True)[1]
    if len(first) == rows.num_rows:
        return None
    row = int(np.setdiff1d(np.arange(rows.num_rows), first)[0])
    return row, f"the same {', '.join(table.key)} as an earlier one"


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
    # Arrow alone would truncate 3.5 to 3 in an integer column, take booleans as numbers, and accept None anywhere.
    plain = set(map(type, values)) <= _PLAIN[column.type, column.optional]
    for number, value in enumerate(() if plain else values):
        if value is None and column.optional:
            continue
        has_null = isinstance(value, list) and None in value
        if (
            not isinstance(value, _ACCEPTED[column.type])
            or isinstance(value, bool) != (column.type == BOOLEAN)
            or has_null
        ):
            kind = f"{column.type}{' or None' if column.optional else ''}"
            raise UsageError(f"row {number} for table {table.name!r}: {column.name} is {value!r}, must be {kind}")
    try:
        array = pa.array(values, column.type)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise UsageError(f"{column.name} for table {table.name!r} does not fit {column.type}: {error}") from error
    if (row := _outside(column, array)) >= 0:
        raise UsageError(f"row {row} for table {table.name!r}: {column.name} is {values[row]}, must be {column.wanted}")
    return array
