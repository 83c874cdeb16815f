"""Takes results out of a directory that are no longer those of its study."""

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from fipray.records import layout
from fipray.records.manifest import Manifest, manifest_bytes, read_manifest
from fipray.records.store import Store
from fipray.records.tables import table_named

RENEWALS = "renewals"


def renew(store: Store, manifest: Manifest, keep: Collection[str]) -> Store:
    """Let only the ids in `keep` count from now on, and put `manifest` in the place of the one that is there, with a
    count of such renewals; return the directory as it is then.

    Others may read meanwhile. Weights and logs of what no longer counts stay where they are.
    """
    commits, files = store.commits, store.files
    with files.locked():
        for name in sorted(set(commits.names().values())):
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
                commits.write(new, attempts, kinds, tables)  # an id that comes back may have the old one's name
            else:
                files.remove(layout.commit_file(name))
        commits.forget()
        commits.remove_dead()
        count = read_manifest(files).get(RENEWALS, 0) + 1
        files.write(layout.MANIFEST, manifest_bytes({**manifest, RENEWALS: count}))
    return Store.open(store.location)


def _of(ids: Collection[str], table: str, rows: pa.Table) -> pa.Table:
    """The rows of these ids."""
    key = rows[table_named(table).key[0]]
    return rows.filter(pc.is_in(key, value_set=pa.array(sorted(ids), key.type)))
