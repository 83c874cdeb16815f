"""Merging of rows from several commits, in the order of their IDs."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fipray.records.tables import table_named


def by_id(table: str, parts: Iterable[pa.Table]) -> pa.Table:
    """Concatenate parts of a table and sort the rows by their committed ID.

    Args:
        table: name of the table.
        parts: at least one part, each with the schema of the table.

    Returns:
        The rows by ID; rows of one ID keep their order.
    """
    rows = pa.concat_tables(parts)
    ids = rows[table_named(table).key[0]].combine_chunks()
    # Commits are written in this order, so most tables are sorted already. Of fewer than two rows `all` gives null.
    if pc.all(pc.less_equal(ids[:-1], ids[1:])).as_py() is not False:
        return rows
    return rows.take(pc.sort_indices(ids))  # stable


def together(several: Iterable[Mapping[str, pa.Table]]) -> dict[str, pa.Table]:
    """Merge the tables of several commits.

    Args:
        several: rows of each commit, by the name of their table.

    Returns:
        All rows by the name of their table, sorted by ID.
    """
    parts: dict[str, list[pa.Table]] = {}
    for tables in several:
        for table, rows in tables.items():
            parts.setdefault(table, []).append(rows)
    return {table: by_id(table, some) for table, some in parts.items()}


def uncommitted_row(
    table: str, rows: pa.Table, numbers: np.ndarray, attempts: Sequence[Mapping[str, int]]
) -> tuple[int, str] | None:
    """Find a row whose ID or attempt is not in the commit record of its file.

    Args:
        table: name of the table.
        rows: rows of several files.
        numbers: index of the file of each row [num_rows].
        attempts: valid attempts by ID, of each file.

    Returns:
        Index of the first such row and what is wrong with it; None if all rows are committed.
    """
    ids = rows[table_named(table).key[0]].combine_chunks().dictionary_encode()
    # Look up each pair of a file and an ID once, not each row.
    pairs, of_rows = np.unique(numbers * (len(ids.dictionary) + 1) + ids.indices.to_numpy(), return_inverse=True)
    known = ids.dictionary.to_pylist()
    # An ID that is missing in the record counts as attempt 0, below every valid number.
    valid = [attempts[number].get(known[id], 0) for number, id in (divmod(int(pair), len(known) + 1) for pair in pairs)]
    given = rows["attempt"].to_numpy()
    wrong = np.flatnonzero((given < 1) | (given > np.array(valid, np.int64)[of_rows]))
    if not len(wrong):
        return None
    row = int(wrong[0])
    return row, f"attempt {given[row]} at {known[ids.indices[row].as_py()]!r}, which its commit record does not name"
