"""Which attempts count: the commit records of a results directory, and the tables that they name.

A record names one or more ids. It is written last of all, whole, and never changed; a record may take the place of
others, whose rows it then holds.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TypedDict, TypeVar, cast, final

import pyarrow as pa
import pyarrow.compute as pc

from fipray.errors import CorruptFileError
from fipray.records import layout
from fipray.records.encoding import json_bytes, parquet_bytes, read_json, read_parquet, sha256_of
from fipray.records.files import Files
from fipray.records.schema import TABLES, table_named

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


class CommitRecord(TypedDict):
    """What commits/<name>.json holds.

    attempts: which attempt at each id counts; kinds: what each id is of; files: the SHA-256 in hexadecimal of each
    table's file; replaces: names of earlier commits whose rows are all in this one.
    """

    name: str
    attempts: dict[str, int]
    kinds: dict[str, str]
    files: dict[str, str]
    replaces: list[str]


@final
@dataclass(eq=False)
class Commits:
    """The commits of a directory. Every record is read once; what is new is found whenever one asks."""

    files: Files
    _names: dict[str, str] = field(default_factory=dict)  # of the commit of each id
    _seen: dict[str, str] = field(default_factory=dict)  # names of the commits that were read, by the record's file
    _replaced: set[str] = field(default_factory=set)
    _tables: dict[str, dict[str, str]] = field(default_factory=dict)  # SHA-256 by file, of each commit

    def names(self, problems: list[str] | None = None) -> Mapping[str, str]:
        """The name of the commit of each id.

        Records that cannot be read raise CorruptFileError, or are told of in `problems` and left out.
        """
        while True:
            listed = set(self.files.names(layout.COMMITS))
            if not listed >= self._seen.keys():  # some were compacted, or deleted to be done again
                self.forget()

            def read(name: str) -> CommitRecord | None:
                try:
                    return self._read_record(name)
                except CorruptFileError as error:
                    if problems is None:
                        raise
                    problems.append(str(error))
                    return None

            try:
                new = (layout.commit_of(file) for file in sorted(listed - self._seen.keys()))
                records = self.each(read, [name for name in new if name])
            except FileNotFoundError:  # compacted since it was listed
                continue
            for record in records:
                if record is not None:
                    self._take_in(record)
            return self._names

    def forget(self) -> None:
        """Read every record anew when somebody asks: one that was deleted may have come again as another."""
        for known in (self._names, self._seen, self._replaced, self._tables):
            known.clear()

    def have_changed(self) -> bool:
        """Whether they are others than when they were last read. Reads every record."""
        before = dict(self._tables)
        self.forget()
        self.names()
        return before != self._tables

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
        self._take_in(record)

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

    def tables(self, record: CommitRecord) -> dict[str, pa.Table]:
        """All rows of a commit, by the name of their table. Raises CorruptFileError."""
        return {
            file.partition("/")[0]: read_parquet(self.read(file, sha256)) for file, sha256 in record["files"].items()
        }

    def files_of(self, name: str) -> Mapping[str, str]:
        """The SHA-256 of each table's file of a commit that `names` told of."""
        return self._tables[name]

    def rows(self, table: str, names: Sequence[str]) -> pa.Table:
        """The rows of a table in these commits, by id, with its full schema. Raises CorruptFileError."""
        files = [(layout.table_file(table, name), self._tables[name]) for name in names]
        there = [(file, digests[file]) for file, digests in files if file in digests]
        parts = self.each(lambda pair: read_parquet(self.read(*pair)), there)
        return by_id(table, [table_named(table).schema.empty_table(), *parts])

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

    def _take_in(self, record: CommitRecord) -> None:
        self._seen[PurePosixPath(layout.commit_file(record["name"])).name] = record["name"]
        self._tables[record["name"]] = record["files"]
        self._replaced.update(record["replaces"])
        if record["name"] not in self._replaced:
            self._names.update(dict.fromkeys(record["attempts"], record["name"]))

    def _read_record(self, name: str) -> CommitRecord:
        file = layout.commit_file(name)
        try:
            record = cast(CommitRecord, read_json(self.files.read(file)))
        except ValueError as error:
            raise self.corrupt(file, "is truncated or altered") from error
        if record["name"] != name:
            raise self.corrupt(file, f"is the record of {record['name']!r}")
        return record


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
