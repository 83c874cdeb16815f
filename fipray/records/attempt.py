"""Finished attempts, and the checks of their rows before a commit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import pyarrow as pa

from fipray.errors import RecordsError, UsageError
from fipray.records import layout
from fipray.records.files import Files
from fipray.records.rows import to_arrow
from fipray.records.tables import Rows, table_named


@final
@dataclass(frozen=True)
class Attempt:
    """A finished attempt, ready to be committed.

    Args:
        id: ID of the job; the first key column of each table holds it.
        kind: kind of the job, such as "path".
        number: number of the attempt, from 1.
        tables: the rows that it produced, by the name of their table.
    """

    id: str
    kind: str
    number: int
    tables: Mapping[str, Rows]


def checked_tables(files: Files, attempts: Sequence[Attempt]) -> dict[str, pa.Table]:
    """Check the rows of attempts and convert them to Arrow tables.

    Args:
        files: files of the results directory.
        attempts: attempts at different IDs.

    Returns:
        Rows by table, in the order of the attempts.

    Raises:
        UsageError: for rows that do not fit the schema or do not belong to their attempt.
        RecordsError: if a weights file that a row names does not exist.
    """
    rows: dict[str, list[Mapping[str, object]]] = {}
    for attempt in attempts:
        layout.checked_name(attempt.id), layout.checked_name(attempt.kind)
        layout.checked_attempt(attempt.number)
        for name, some in attempt.tables.items():
            rows.setdefault(name, []).extend(some)
    tables = {name: to_arrow(name, some) for name, some in rows.items()}
    for attempt in attempts:
        for name, some in attempt.tables.items():
            _check_own(attempt, name, some)
        _check_weights(files, attempt)
    return tables


def _check_own(attempt: Attempt, name: str, rows: Rows) -> None:
    id, id_column = attempt.id, table_named(name).key[0]
    if others := {str(row[id_column]) for row in rows} - {id}:
        raise UsageError(f"rows for table {name!r} have {id_column} {sorted(others)}, but {id!r} is being committed")
    # Earlier attempts are allowed: a resumed path hands over what they had saved as well.
    if later := {row["attempt"] for row in rows} - set(range(1, attempt.number + 1)):
        raise UsageError(
            f"rows for table {name!r} have attempt {[*later]}, but attempt {attempt.number} is being committed"
        )
    for row in rows:
        pair = [row.get("weights_file"), row.get("weights_sha256")]
        if pair.count(None) == 1:
            raise UsageError(f"weights_file and weights_sha256 go together; a row has {tuple(pair)}")


def _check_weights(files: Files, attempt: Attempt) -> None:
    named = {str(row["weights_file"]) for rows in attempt.tables.values() for row in rows if row.get("weights_file")}
    # One listing per directory instead of one look-up per file: an object store takes about as long for either.
    listed: dict[str, list[str]] = {}
    for file in sorted(named):
        # A resumed path keeps the files of the attempts before.
        if not layout.may_name(attempt.id, attempt.number, file):
            raise UsageError(
                f"a row of {attempt.id!r} names {file!r}, which no attempt at it up to {attempt.number} can have "
                "written"
            )
        directory, _, name = file.rpartition("/")
        if directory not in listed:
            listed[directory] = files.names(directory)
        if name not in listed[directory]:
            raise RecordsError(
                f"{files.named(file)}, which a row of {attempt.id!r} names, cannot be seen from here. Use a directory "
                "on a file system that every worker shares, or in an object store"
            )
