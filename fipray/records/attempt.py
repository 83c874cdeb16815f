"""An attempt that is over, and whether what it hands in is its own."""

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
    """An attempt at an id that is over, and the rows that it made. `kind` says what the id is of."""

    id: str
    kind: str
    number: int
    tables: Mapping[str, Rows]


def checked_tables(files: Files, attempts: Sequence[Attempt]) -> dict[str, pa.Table]:
    """The attempts' rows by table, in the order of the attempts.

    Raises UsageError for rows that do not fit the schema or are not their attempt's, RecordsError where a weights file
    that they name is not there.
    """
    rows: dict[str, list[Mapping[str, object]]] = {}
    for attempt in attempts:
        layout.checked_name(attempt.kind), layout.checked_attempt(attempt.number)
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
    if strangers := {str(row[id_column]) for row in rows} - {id}:
        raise UsageError(f"rows for table {name!r} have {id_column} {sorted(strangers)}, but {id!r} is being committed")
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
    listed: dict[str, list[str]] = {}
    for file in sorted(named):
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
