"""Compaction: the many small files of a long run merged into few large ones."""

import pyarrow as pa

from fipray.errors import CorruptFileError
from fipray.records import layout
from fipray.records.merging import together
from fipray.records.record import CommitRecord
from fipray.records.store import Store


def compact(store: Store, max_rows: int = 2_000_000) -> tuple[int, int]:
    """Merge commits into fewer ones, while others may read and write.

    Readers of this library see each row exactly once at every moment. Programs that read the directory of a table as a
    whole see rows twice from the moment a merged commit is written until those that it replaces are removed.

    Args:
        store: results directory.
        max_rows: upper bound on the rows of a merged commit, over all tables; a single commit that is larger stays.

    Returns:
        Number of commits before and after.

    Raises:
        CorruptFileError: if a table was altered; nothing is lost then.
    """
    commits = store.commits
    names = sorted(set(commits.names().values()))
    group: list[tuple[CommitRecord, dict[str, pa.Table]]] = []
    num_rows = 0
    # Tables are read without the lock, so that a running study can commit meanwhile.
    # A list and not a generator: `names` may clear the cache within the loop.
    for record in [commits.known_record(name) for name in names]:
        try:
            tables = commits.tables(record)
        except CorruptFileError:
            if record["name"] in commits.names().values():
                raise
            continue  # another process has replaced it since it was listed
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
    """Replace commits by one, unless another process has replaced or deleted one of them meanwhile."""
    if len(group) < 2:
        return
    names = [record["name"] for record, _ in group]
    tables = together(tables for _, tables in group)
    with store.files.locked():
        # Commits that these ones replaced must be gone first: if this process died after removing these and before
        # removing those, the old ones would be valid again.
        store.commits.remove_dead()
        if set(names) <= set(store.commits.names().values()):
            store.commits.write(
                layout.derived_commit("compacted", names),
                {id: number for record, _ in group for id, number in record["attempts"].items()},
                {id: kind for record, _ in group for id, kind in record["kinds"].items()},
                tables,
                names,
            )
