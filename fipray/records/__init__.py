"""What is written down: the schema of the tables, and the results directory that holds them. No torch."""

from fipray.records.attempt import Attempt
from fipray.records.compaction import compact
from fipray.records.record import CommitRecord
from fipray.records.renewal import RENEWALS, renew
from fipray.records.rows import to_arrow
from fipray.records.schema import SCHEMA_VERSION, TABLES, Column, Rows, Table
from fipray.records.store import Store

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
    "compact",
    "renew",
    "to_arrow",
]
