"""What is written down: the schema of the tables, and the results directory that holds them. No torch."""

from fipray.records.schema import SCHEMA_VERSION, TABLES, Column, Rows, Table, to_arrow
from fipray.records.store import CommitRecord, Store

__all__ = ["SCHEMA_VERSION", "TABLES", "Column", "CommitRecord", "Rows", "Store", "Table", "to_arrow"]
