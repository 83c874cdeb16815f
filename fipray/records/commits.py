"""Which attempts count: the commit records of a results directory, and the tables that they name.

A record names one or more ids. It is written last of all, whole, and never changed; a record may take the place of
others, whose rows it then holds.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fipray.errors import CorruptFileError, RecordsError
from fipray.records import layout
from fipray.records.encoding import json_bytes, sha256_of
from fipray.records.files import Files
from fipray.records.parquet import parquet_bytes, read_parquet
from fipray.records.record import CommitRecord, read_record
from fipray.records.rows import unfit_row
from fipray.records.tables import TABLES, table_named

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


@final
@dataclass(eq=False)
class Commits:
    """The commits of a directory. Every record is read once; what is new is found whenever one asks."""

    files: Files
    _names: dict[str, str] = field(default_factory=dict)  # of the commit of each id
    _seen: dict[str, str] = field(default_factory=dict)  # names of the commits that were read, by the record's file
    _replaced: set[str] = field(default_factory=set)
    _records: dict[str, CommitRecord] = field(default_factory=dict)

    def names(self, problems: list[str] | None = None) -> Mapping[str, str]:
        """The name of the commit of each id.

        Records that cannot be read or do not fit each other raise RecordsError, or are told of in `problems` and left
        out.
        """
        told: list[RecordsError] = []
        read = partial(self._read_or_tell, told)
        while True:
            listed = set(self.files.names(layout.COMMITS))
            if not listed >= self._seen.keys():  # some were compacted, or deleted to be done again
                self.forget()
            new = (layout.commit_of(file) for file in sorted(listed - self._seen.keys()))
            try:
                records = self.each(read, [name for name in new if name])
            except FileNotFoundError:  # compacted since it was listed
                continue
            there = [record for record in records if record is not None]
            self._take_in(there)
            told += self._unfit(there)
            if problems is not None:
                problems += map(str, told)
            elif told:
                self.forget()
                raise told[0]
            return self._names

    def forget(self) -> None:
        """Read every record anew when somebody asks: one that was deleted may have come again as another."""
        for known in (self._names, self._seen, self._replaced, self._records):
            known.clear()

    def have_changed(self) -> bool:
        """Whether they are others than when they were last read. Reads every record."""
        before = dict(self._records)
        self.forget()
        self.names()
        return before != self._records

    def known(self) -> Mapping[str, str]:
        """The same as of the last time that somebody asked."""
        return self._names or self.names()

    def record(self, name: str) -> CommitRecord:
        """A commit record. Raises CorruptFileError."""
        try:
            return self._read_record(name)
        except FileNotFoundError as error:
            raise self.corrupt(layout.commit_file(name), "is missing") from error

    def write(
        self,
        name: str,
        attempts: Mapping[str, int],
        kinds: Mapping[str, str],
        tables: Mapping[str, pa.Table],
        replaces: Sequence[str] = (),
    ) -> None:
        """Writes tables, then the record that names them; for the holder of the directory's lock alone."""
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
            self.files.write(layout.commit_file(name), json_bytes({**record}))
        except BaseException:
            self.remove_dead()
            raise
        self._take_in([record])

    def remove_dead(self) -> None:
        """Removes records that were replaced, and tables that no record names, of writers who died before their record.

        For the holder of the lock alone. Our readers skip them, but others read whole directories.
        """
        live = set(self.names().values())
        replaced = [(file, name) for file, name in self._seen.items() if name not in live]
        self.each(self.files.remove, [layout.commit_file(name) for _, name in replaced])
        for file, _ in replaced:
            del self._seen[file]
        dead = [
            layout.table_file(table, name)
            for table in TABLES
            for file in self.files.names(table)
            if (name := layout.commit_of(file)) and name not in live
        ]
        self.each(self.files.remove, dead)

    def known_record(self, name: str) -> CommitRecord:
        """The record of a commit that `names` told of."""
        return self._records[name]

    def tables(self, record: CommitRecord) -> dict[str, pa.Table]:
        """All rows of a commit, by the name of their table. Raises CorruptFileError."""
        return {table: self._rows(table, [record]) for table in map(layout.table_of, record["files"])}

    def rows(self, table: str, names: Sequence[str]) -> pa.Table:
        """The rows of a table in these commits, by id, with its full schema. Raises CorruptFileError."""
        return self._rows(table, [self._records[name] for name in names])

    def _rows(self, table: str, records: Sequence[CommitRecord]) -> pa.Table:
        files = [(layout.table_file(table, record["name"]), record) for record in records]
        there = [(file, record) for file, record in files if file in record["files"]]
        parts = self.each(lambda pair: self._part(table, *pair), there)
        rows = pa.concat_tables([table_named(table).schema.empty_table(), *parts])
        numbers = np.repeat(np.arange(len(parts)), [part.num_rows for part in parts])  # of the file of each row
        if unfit := unfit_row(table_named(table), rows) or self._strange_row(table, rows, numbers, there):
            row, what = unfit
            raise self.corrupt(there[numbers[row]][0], f"has a row with {what}")
        return by_id(table, [rows])

    def _part(self, table: str, file: str, record: CommitRecord) -> pa.Table:
        content = self.read(file, record["files"][file])
        try:
            return read_parquet(table_named(table), content)
        except ValueError as error:
            raise self.corrupt(file, f"is no table {table!r} as fipray writes it: {error}") from error

    @staticmethod
    def _strange_row(
        table: str, rows: pa.Table, numbers: np.ndarray, there: Sequence[tuple[str, CommitRecord]]
    ) -> tuple[int, str] | None:
        """The first row of an id or attempt that its commit record does not make count, and what is wrong with it."""
        ids = rows[table_named(table).key[0]].combine_chunks().dictionary_encode()
        pairs, of_rows = np.unique(
            numbers * (len(ids.dictionary) + 1) + ids.indices.to_numpy(), return_inverse=True
        )  # of a file and an id in it
        known = ids.dictionary.to_pylist()
        attempts = [
            there[number][1]["attempts"].get(known[id], 0)
            for number, id in (divmod(int(pair), len(known) + 1) for pair in pairs)
        ]
        given = rows["attempt"].to_numpy()
        strange = np.flatnonzero((given < 1) | (given > np.array(attempts, np.int64)[of_rows]))
        if not len(strange):
            return None
        row = int(strange[0])
        return (
            row,
            f"attempt {given[row]} at {known[ids.indices[row].as_py()]!r}, which its commit record does not name",
        )

    def read(self, file: str, sha256: str | None = None) -> bytes:
        """The content of a file that should be there, with that SHA-256 where one is given. Raises CorruptFileError."""
        try:
            content = self.files.read(file)
        except FileNotFoundError as error:
            raise self.corrupt(file, "is missing") from error
        if sha256 not in (None, sha256_of(content)):
            raise self.corrupt(file, "is truncated or altered")
        return content

    def corrupt(self, file: str, what: str) -> CorruptFileError:
        id = layout.id_of_weights(file)
        commit = self._names.get(id, id) if id else None
        return CorruptFileError(f"{self.files.named(file)} {what}. {layout.remedy(file, commit)}")

    def each(self, function: Callable[[_Item], _Made], items: Sequence[_Item]) -> list[_Made]:
        """The function of each item, in order; many at a time where every one waits for a far store."""
        if self.files.num_at_once == 1 or len(items) < 2:
            return [function(item) for item in items]
        with ThreadPoolExecutor(self.files.num_at_once) as pool:
            return list(pool.map(function, items))

    def _take_in(self, records: Sequence[CommitRecord]) -> None:
        for record in records:
            self._seen[layout.commit_entry(record["name"])] = record["name"]
            self._records[record["name"]] = record
            self._replaced.update(record["replaces"])
        for record in records:
            if record["name"] not in self._replaced:
                self._names.update(dict.fromkeys(record["attempts"], record["name"]))

    def _unfit(self, records: Sequence[CommitRecord]) -> Iterator[CorruptFileError]:
        """Why some of the records, which were taken in, do not fit the others: all that was committed counts once."""
        replaced = [name for record in records for name in record["replaces"] if name in self._records]
        for record in [*records, *(self._records[name] for name in replaced)]:
            name = record["name"]
            for id, attempt in record["attempts"].items():
                counting = self._names.get(id, name)
                if counting in self._replaced or self._records[counting]["attempts"][id] != attempt:
                    what = f"is replaced, but {id!r} in it is held by none that counts"
                elif counting != name and name not in self._replaced:
                    what = f"and {self.files.named(layout.commit_file(counting))} both hold {id!r}"
                else:
                    continue
                yield self.corrupt(layout.commit_file(name), what)
                break

    def _read_or_tell(self, told: list[RecordsError], name: str) -> CommitRecord | None:
        try:
            return self._read_record(name)
        except RecordsError as error:
            told.append(error)
            return None

    def _read_record(self, name: str) -> CommitRecord:
        file = layout.commit_file(name)
        content = self.files.read(file)
        try:
            return read_record(content, name)
        except ValueError as error:
            raise self.corrupt(file, str(error)) from error


def by_id(table: str, parts: Iterable[pa.Table]) -> pa.Table:
    """The rows of several parts of a table by id; those of one id in the order that they have."""
    rows = pa.concat_tables(parts)
    ids = rows[table_named(table).key[0]].combine_chunks()
    if pc.all(pc.less_equal(ids[:-1], ids[1:])).as_py() is not False:
        return rows
    return rows.take(pc.sort_indices(ids))


def together(several: Iterable[Mapping[str, pa.Table]]) -> dict[str, pa.Table]:
    """The rows of several, of each table by id."""
    parts: dict[str, list[pa.Table]] = {}
    for tables in several:
        for table, rows in tables.items():
            parts.setdefault(table, []).append(rows)
    return {table: by_id(table, some) for table, some in parts.items()}
