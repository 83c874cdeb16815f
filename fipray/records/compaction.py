"""Puts the many small files of a long run into few."""

import pyarrow as pa

from fipray.errors import CorruptFileError
from fipray.records import layout
from fipray.records.commits import together
from fipray.records.record import CommitRecord
from fipray.records.store import Store


def compact(store: Store, max_rows: int = 2_000_000) -> tuple[int, int]:
    """Puts what many commits hold into few of up to `max_rows` rows, while others read, and write.

    At every moment our readers see the rows that were there, once. Programs that read a table's directory as a whole
    see rows twice between the writing of a commit and the removal of those that it replaces. Returns the number of
    commits before and after. Raises CorruptFileError, and keeps what is there, where a table is not as written.
    """
    commits = store.commits
    names = sorted(set(commits.names().values()))
    group: list[tuple[CommitRecord, dict[str, pa.Table]]] = []
    num_rows = 0
    for record in [commits.known_record(name) for name in names]:  # read without the lock, for which a driver waits
        try:
            tables = commits.tables(record)
        except CorruptFileError:
            if record["name"] in commits.names().values():
                raise
            continue  # replaced by somebody else since it was listed
        size = sum(rows.num_rows for rows in tables.values())
        if group and num_rows + size > max_rows:
            _replace(store, group)
            group, num_rows = [], 0
        group.append((record, tables))
        num_rows += size
    _replace(store, group)
    with store.files.locked():
        commits.remove_dead()
    return len(names), len(set(commits.names().values()))


def _replace(store: Store, group: list[tuple[CommitRecord, dict[str, pa.Table]]]) -> None:
    """One commit in the place of these, unless somebody else has replaced or deleted one of them meanwhile."""
    if len(group) < 2:
        return
    names = [record["name"] for record, _ in group]
    tables = together(tables for _, tables in group)
    with store.files.locked():
        store.commits.remove_dead()  # so that who dies while he removes these leaves none that those replaced
        if set(names) <= set(store.commits.names().values()):
            store.commits.write(
                layout.derived_commit("compacted", names),
                {id: number for record, _ in group for id, number in record["attempts"].items()},
                {id: kind for record, _ in group for id, kind in record["kinds"].items()},
                tables,
                names,
            )
