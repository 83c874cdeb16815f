"""Results directories: schemas of the tables, atomic writes, commits, compaction. Loads no torch."""

from fipray.records.attempt import Attempt
from fipray.records.compaction import compact
from fipray.records.manifest import num_jobs
from fipray.records.record import CommitRecord
from fipray.records.renewal import RENEWALS, renew
from fipray.records.rows import to_arrow
from fipray.records.store import Store
from fipray.records.tables import SCHEMA_VERSION, TABLES, Column, Rows, Table, as_mapping, table_named

__all__ = [
    "RENEWALS",
    "SCHEMA_VERSION",
    "TABLES",
    "Attempt",
    "Column",
    "CommitRecord",
    "Rows",
    "Store",
    "Table",
    "as_mapping",
    "compact",
    "num_jobs",
    "renew",
    "table_named",
    "to_arrow",
]
