"""Invalidation of results that no longer belong to a changed study."""

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from fipray.records import layout
from fipray.records.manifest import Manifest, manifest_bytes, read_manifest
from fipray.records.store import Store
from fipray.records.tables import table_named

RENEWALS = "renewals"


def renew(store: Store, manifest: Manifest, keep: Collection[str]) -> Store:
    """Invalidate all results except those of given IDs, and replace the manifest.

    Others may read meanwhile. Weights and logs of invalidated results remain in the directory.

    Args:
        store: results directory.
        manifest: its new manifest; a count of renewals is added as `renewals`.
        keep: IDs whose results remain valid.

    Returns:
        The results directory, opened again.
    """
    commits, files = store.commits, store.files
    with files.locked():
        for name in sorted(set(commits.names().values())):
            # From its file: the cache does not notice a record that was deleted and came back under the same name.
            record = commits.record(name)
            attempts = {id: number for id, number in record["attempts"].items() if id in keep}
            if len(attempts) == len(record["attempts"]):
                continue
            if attempts:
                kinds = {id: record["kinds"][id] for id in attempts}
                kept = {table: _of(attempts, table, rows) for table, rows in commits.tables(record).items()}
                tables = {table: rows for table, rows in kept.items() if rows.num_rows}
                new = layout.derived_commit("kept", attempts)
                commits.write(new, attempts, kinds, tables, [name])
                files.remove(layout.commit_file(name))
                # Again, without `replaces`: an invalidated ID that is computed anew may get a commit of the old name,
                # which must not count as replaced.
                commits.write(new, attempts, kinds, tables)
            else:
                files.remove(layout.commit_file(name))
        commits.forget()
        commits.remove_dead()
        # Last of all: a run that is cut off before this point finds the old manifest and renews again.
        count = read_manifest(files).get(RENEWALS, 0) + 1
        files.write(layout.MANIFEST, manifest_bytes({**manifest, RENEWALS: count}))
    return Store.open(store.location)


def _of(ids: Collection[str], table: str, rows: pa.Table) -> pa.Table:
    key = rows[table_named(table).key[0]]
    return rows.filter(pc.is_in(key, value_set=pa.array(sorted(ids), key.type)))
