"""Commits of a results directory: their records, and the rows of the tables that they name.

A commit record names one or more IDs and the attempt that is valid for each. It is written after its tables,
atomically, and never changed. A record may replace others, whose rows it then holds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar, final

import numpy as np
import pyarrow as pa

from fipray.errors import CorruptFileError, RecordsError
from fipray.records import layout
from fipray.records.encoding import json_bytes, sha256_of
from fipray.records.files import Files
from fipray.records.merging import by_id, uncommitted_row
from fipray.records.parquet import parquet_bytes, read_parquet
from fipray.records.record import CommitRecord, read_record
from fipray.records.rows import unfit_row
from fipray.records.tables import TABLES, table_named

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


@final
@dataclass(eq=False)
class Commits:
    """Commits of a results directory, cached: each record is read once, and every query finds new ones.

    Args:
        files: files of the directory.
    """

    files: Files
    _names: dict[str, str] = field(default_factory=dict)  # valid commit of each ID
    _seen: dict[str, str] = field(default_factory=dict)  # commits that were read, by the name of their file
    _replaced: set[str] = field(default_factory=set)
    _records: dict[str, CommitRecord] = field(default_factory=dict)

    def names(self, problems: list[str] | None = None) -> Mapping[str, str]:
        """List the directory and read the records that are new.

        Args:
            problems: list that collects a message for each record that is unreadable or contradicts another one; such
                records are left out. By default the first of them is raised.

        Returns:
            Name of the valid commit, by ID.

        Raises:
            RecordsError: for an invalid record, unless problems are collected.
        """
        errors: list[RecordsError] = []
        read = partial(self._read_or_collect, errors)
        while True:
            listed = set(self.files.names(layout.COMMITS))
            # Some were compacted, or deleted so that their results are computed again.
            if not listed >= self._seen.keys():
                self.forget()
            new = (layout.commit_of(entry) for entry in sorted(listed - self._seen.keys()))
            try:
                found = self.each(read, [name for name in new if name])
            except FileNotFoundError:  # compacted since it was listed
                continue
            records = [record for record in found if record is not None]
            self._add(records)
            errors += self._contradictions(records)
            if problems is not None:
                problems += map(str, errors)
            elif errors:
                # So that the next query fails as well, instead of answering from the records that are valid.
                self.forget()
                raise errors[0]
            return self._names

    def forget(self) -> None:
        """Clear the cache. A record that was deleted may have come back with other content."""
        for known in (self._names, self._seen, self._replaced, self._records):
            known.clear()

    def have_changed(self) -> bool:
        """Read all records again and compare them with the cached ones."""
        before = dict(self._records)
        self.forget()
        self.names()
        return before != self._records

    def known(self) -> Mapping[str, str]:
        """Name of the valid commit by ID, from the cache if there is any."""
        return self._names or self.names()

    def record(self, name: str) -> CommitRecord:
        """Read a commit record from its file.

        Args:
            name: name of the commit.

        Returns:
            The record.

        Raises:
            CorruptFileError: if it is missing or invalid.
        """
        try:
            return self._read_record(name)
        except FileNotFoundError as error:
            raise self.corrupt(layout.commit_file(name), "is missing") from error

    def known_record(self, name: str) -> CommitRecord:
        """Commit record from the cache.

        Args:
            name: name of a commit that `names` returned.

        Returns:
            The record.
        """
        return self._records[name]

    def write(
        self,
        name: str,
        attempts: Mapping[str, int],
        kinds: Mapping[str, str],
        tables: Mapping[str, pa.Table],
        replaces: Sequence[str] = (),
    ) -> None:
        """Write tables and, last of all, the record that makes them valid. The caller holds the directory's lock.

        All commits are written here: those of studies and searches, compacted ones, and what a renewal keeps.

        Args:
            name: name of the commit.
            attempts: number of the valid attempt, by ID.
            kinds: kind of job, by ID.
            tables: rows of all these IDs, by the name of their table.
            replaces: names of commits whose rows are all in this one.
        """
        # All tables are encoded before any is written: an error in encoding then leaves no files.
        contents = {layout.table_file(table, name): parquet_bytes(rows) for table, rows in tables.items()}
        record: CommitRecord = {
            "name": name,
            "attempts": dict(attempts),
            "kinds": dict(kinds),
            "files": {file: sha256_of(content) for file, content in contents.items()},
            "replaces": list(replaces),
        }
        try:
            for file, content in contents.items():
                self.files.write(file, content)
            # From here on readers see the rows: everything that the record names must be durable by now.
            self.files.write(layout.commit_file(name), json_bytes({**record}))
        # KeyboardInterrupt, too. The directory is listed again, so a record that got its name before the error stays.
        except BaseException:
            self.remove_dead()
            raise
        self._add([record])

    def remove_dead(self) -> None:
        """Remove replaced records, and table files without a record. The caller holds the directory's lock.

        Writers that died before their record leave such files. Readers of this library ignore them, but programs that
        read the directory of a table as a whole do not.
        """
        valid = set(self.names().values())
        replaced = [(entry, name) for entry, name in self._seen.items() if name not in valid]
        # Records before tables: a record whose tables are gone would be damage.
        self.each(self.files.remove, [layout.commit_file(name) for _, name in replaced])
        for entry, _ in replaced:
            # Otherwise `names` would miss it in the next listing, and read all records again.
            del self._seen[entry]
        dead = [
            layout.table_file(table, name)
            for table in TABLES
            for entry in self.files.names(table)
            if (name := layout.commit_of(entry)) and name not in valid
        ]
        self.each(self.files.remove, dead)

    def tables(self, record: CommitRecord) -> dict[str, pa.Table]:
        """Read all rows of a commit.

        Args:
            record: record of the commit.

        Returns:
            Rows by the name of their table.

        Raises:
            CorruptFileError: if a file is missing or was altered, or a row is invalid.
        """
        return {table: self._rows(table, [record]) for table in map(layout.table_of, record["files"])}

    def rows(self, table: str, names: Sequence[str]) -> pa.Table:
        """Read the rows of one table in some commits.

        Args:
            table: name of the table.
            names: names of commits that `names` returned.

        Returns:
            Rows sorted by ID, with the full schema.

        Raises:
            CorruptFileError: if a file is missing or was altered, or a row is invalid.
        """
        return self._rows(table, [self._records[name] for name in names])

    def read(self, file: str, sha256: str | None = None) -> bytes:
        """Read a file that must exist.

        Args:
            file: file name.
            sha256: its digest; None skips the comparison.

        Returns:
            Content of the file.

        Raises:
            CorruptFileError: if the file is missing or has another digest.
        """
        try:
            content = self.files.read(file)
        except FileNotFoundError as error:
            raise self.corrupt(file, "is missing") from error
        if sha256 not in (None, sha256_of(content)):
            raise self.corrupt(file, "is truncated or altered")
        return content

    def corrupt(self, file: str, what: str) -> CorruptFileError:
        """Make the error for a damaged file.

        Args:
            file: file name.
            what: what is wrong, as the rest of a sentence that begins with the file.

        Returns:
            The error, with advice on how to repair the directory.
        """
        id = layout.id_of_weights(file)
        # A commit is named after the first of its IDs, or by a digest after compaction: look up this ID's.
        commit = self._names.get(id, id) if id else None
        return CorruptFileError(f"{self.files.named(file)} {what}. {layout.remedy(file, commit)}")

    def each(self, function: Callable[[_Item], _Made], items: Sequence[_Item]) -> list[_Made]:
        """Apply a function to each item; concurrently if files are in an object store, which is slow to answer.

        Args:
            function: function of one item.
            items: the items.

        Returns:
            Results in the order of the items.
        """
        if self.files.num_at_once == 1 or len(items) < 2:
            return [function(item) for item in items]
        # Threads are enough: pyarrow releases the GIL while it waits for the store.
        with ThreadPoolExecutor(self.files.num_at_once) as pool:
            return list(pool.map(function, items))

    def _rows(self, table: str, records: Sequence[CommitRecord]) -> pa.Table:
        files = [(layout.table_file(table, record["name"]), record) for record in records]
        found = [(file, record) for file, record in files if file in record["files"]]
        parts = self.each(lambda pair: self._part(table, *pair), found)
        # The empty table gives the schema if no commit has rows in this one.
        rows = pa.concat_tables([table_named(table).schema.empty_table(), *parts])
        numbers = np.repeat(np.arange(len(parts)), [part.num_rows for part in parts])  # index of each row's file
        attempts = [record["attempts"] for _, record in found]
        # All files at once: checks cost more per call than per row.
        if unfit := unfit_row(table_named(table), rows) or uncommitted_row(table, rows, numbers, attempts):
            row, what = unfit
            raise self.corrupt(found[numbers[row]][0], f"has a row with {what}")
        return by_id(table, [rows])

    def _part(self, table: str, file: str, record: CommitRecord) -> pa.Table:
        content = self.read(file, record["files"][file])
        try:
            return read_parquet(table_named(table), content)
        except ValueError as error:
            raise self.corrupt(file, f"is not a valid file of table {table!r}: {error}") from error

    def _add(self, records: Sequence[CommitRecord]) -> None:
        for record in records:
            self._seen[layout.commit_entry(record["name"])] = record["name"]
            self._records[record["name"]] = record
            self._replaced.update(record["replaces"])
        # In a second pass, as a record may come before the one that replaces it.
        for record in records:
            if record["name"] not in self._replaced:
                self._names.update(dict.fromkeys(record["attempts"], record["name"]))

    def _contradictions(self, records: Sequence[CommitRecord]) -> Iterator[CorruptFileError]:
        """Errors for new records that contradict others: each committed attempt must be in exactly one valid record."""
        replaced = [name for record in records for name in record["replaces"] if name in self._records]
        for record in [*records, *(self._records[name] for name in replaced)]:
            name = record["name"]
            for id, attempt in record["attempts"].items():
                valid = self._names.get(id, name)
                if valid in self._replaced or self._records[valid]["attempts"][id] != attempt:
                    what = f"is replaced, but no valid record holds {id!r}, which is in it"
                elif valid != name and name not in self._replaced:
                    what = f"and {self.files.named(layout.commit_file(valid))} both hold {id!r}"
                else:
                    continue
                yield self.corrupt(layout.commit_file(name), what)
                break  # one message per record is enough

    def _read_or_collect(self, errors: list[RecordsError], name: str) -> CommitRecord | None:
        try:
            return self._read_record(name)
        # FileNotFoundError passes: `names` takes it for a sign of compaction, and lists again.
        except RecordsError as error:
            errors.append(error)
            return None

    def _read_record(self, name: str) -> CommitRecord:
        file = layout.commit_file(name)
        content = self.files.read(file)
        try:
            return read_record(content, name)
        except ValueError as error:
            raise self.corrupt(file, str(error)) from error
