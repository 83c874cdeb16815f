"""A results directory: whole-or-nothing writes, commits, reads. `layout.py` draws what is in it.

Workers write weights under their own attempt number and hand rows back; the driver writes tables and, last of all, the
commit record. Readers read only what a commit record names, so an attempt that does not count never shows, however long
its worker lives on. There is one file for an id and table: no reader sees a (path, step) twice.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Self, TypeAlias, TypedDict, cast, final

import numpy as np
import pyarrow as pa
import safetensors.numpy

from fipray.errors import CorruptFileError, RecordsError, UsageError
from fipray.records import layout
from fipray.records.encoding import json_bytes, parquet_bytes, read_json, read_parquet, safetensors_bytes, sha256_of
from fipray.records.files import is_temporary, locked, make_directory, remove_leftovers, write_whole
from fipray.records.manifest import Manifest, check_same_study, manifest_bytes, read_manifest
from fipray.records.schema import TABLES, Rows, table_named, to_arrow

Arrays: TypeAlias = Mapping[str, np.ndarray]


class CommitRecord(TypedDict):
    """What commits/<id>.json holds. `files`: the SHA-256 in hexadecimal of each committed file, by its name."""

    id: str
    kind: str
    attempt: int
    files: dict[str, str]


@final
@dataclass(frozen=True)
class Store:
    """A results directory, on a file system that every worker sees. Made by `create_or_open` or `open`."""

    directory: Path
    manifest: Manifest

    @classmethod
    def create_or_open(cls, directory: str | Path, manifest: Manifest) -> Self:
        """The results directory of this study: made where missing, else opened and freed of leftovers.

        `manifest` is plain JSON data with at least `study` (its name), `study_id` and `parameters` (a mapping).
        Raises UsageError for the directory of another study, RecordsError for one that holds anything else or
        cannot be written.
        """
        directory = layout.local_directory(directory)
        content = manifest_bytes(manifest)
        try:
            make_directory(directory)
            entries = sorted(name for name in os.listdir(directory) if name != layout.LOCK and not is_temporary(name))
        except OSError as error:
            raise RecordsError(f"cannot use {directory}: {error.strerror}. Choose another directory") from error
        if entries and layout.MANIFEST not in entries:
            some = ", ".join(entries[:3]) + (", ..." if len(entries) > 3 else "")
            raise RecordsError(
                f"{directory} is no results directory: it holds {some} but no {layout.MANIFEST}. "
                "Choose a new or an empty directory"
            )
        with locked(directory / layout.LOCK):
            if not (directory / layout.MANIFEST).exists():
                write_whole(directory / layout.MANIFEST, content)
            store = cls.open(directory)
            check_same_study(directory, store.manifest, manifest)
            store._remove_uncommitted()
        remove_leftovers(directory)
        return store

    @classmethod
    def open(cls, directory: str | Path) -> Self:
        """The results directory that is there. Raises RecordsError where there is none, or one of another version."""
        directory = layout.local_directory(directory)
        return cls(directory, read_manifest(directory))

    def is_committed(self, id: str) -> bool:
        """Whether an attempt at this id counts already."""
        return (self.directory / layout.commit_file(id)).exists()

    def committed(self) -> set[str]:
        """The ids of which an attempt counts."""
        return _ids(self.directory / layout.COMMITS)

    def commit_record(self, id: str) -> CommitRecord:
        """Which attempt at the id counts, and its files. Raises UsageError for an id that is not committed."""
        if not self.is_committed(id):
            raise UsageError(f"{id!r} is not committed in {self.directory}")
        file = layout.commit_file(id)
        try:
            record = cast(CommitRecord, read_json(self._read(file)))
        except ValueError as error:
            raise self._corrupt(file, "is truncated or altered") from error
        if record["id"] != id:
            raise self._corrupt(file, f"is the record of {record['id']!r}")
        return record

    def next_attempt(self, id: str) -> int:
        """A number that no attempt at the id has had, from 1; it is the caller's from now on, on any machine."""
        directory = self.directory / layout.WEIGHTS / layout.checked_name(id)
        numbers = [int(name) for name in _names(directory) if name.isdecimal()]
        if self.is_committed(id):
            numbers.append(self.commit_record(id)["attempt"])
        try:
            make_directory(directory)
            for attempt in count(max(numbers, default=0) + 1):
                with suppress(FileExistsError):  # somebody else was faster
                    (directory / str(attempt)).mkdir()
                    break
        except OSError as error:
            raise RecordsError(f"could not begin an attempt in {directory}: {error.strerror}") from error
        return attempt

    @property
    def has_base(self) -> bool:
        """Whether the weights that every path starts from are written."""
        return (self.directory / layout.BASE_SHA256).exists()

    def write_base(self, arrays: Arrays) -> tuple[str, str]:
        """Writes the weights that every path starts from, unless they are there: the first ones written count.

        Returns the name and SHA-256 of the file that counts.
        """
        content = safetensors_bytes(arrays)
        with locked(self.directory / layout.LOCK):
            if not self.has_base:
                write_whole(self.directory / layout.BASE, content)
                write_whole(self.directory / layout.BASE_SHA256, f"{sha256_of(content)}  {layout.BASE}\n".encode())
        return layout.BASE, self._base_sha256()

    def read_base(self) -> dict[str, np.ndarray]:
        """The weights that every path starts from. Raises RecordsError before they are written."""
        return self.read_weights(layout.BASE, self._base_sha256())

    def write_weights(self, id: str, attempt: int, name: str, arrays: Arrays) -> tuple[str, str]:
        """Writes arrays of one attempt, such as {"weights": [P]}, as a safetensors file.

        Returns its name relative to the directory, and its SHA-256: the columns `weights_file`, `weights_sha256`.
        """
        file, content = layout.weights_file(id, attempt, name), safetensors_bytes(arrays)
        write_whole(self.directory / file, content)
        return file, sha256_of(content)

    def read_weights(self, file: str, sha256: str | None) -> dict[str, np.ndarray]:
        """The arrays of a file that a row names. Raises CorruptFileError where it is missing or not as written.

        Without a digest it is the caller who checks that the arrays are what was written.
        """
        content = self._read(layout.checked_weights_file(file), sha256)
        return safetensors.numpy.load(content)

    def write_log(self, id: str, attempt: int, text: str) -> str:
        """Writes what one attempt printed and warned. Returns the name of the file relative to the directory."""
        file = layout.log_file(id, attempt)
        write_whole(self.directory / file, text.encode(errors="backslashreplace"))
        return file

    def read_log(self, id: str, attempt: int) -> str:
        """What one attempt printed and warned. Raises CorruptFileError where it wrote no log, as when it was killed."""
        return self._read(layout.log_file(id, attempt)).decode()

    def commit(self, id: str, kind: str, attempt: int, tables: Mapping[str, Rows]) -> bool:
        """Makes this attempt at the id the one that counts: writes its tables, then the commit record.

        False, and nothing is written, where another attempt counts already. The first key column of each table must be
        `id`. Raises UsageError for rows that do not fit, RecordsError where a weights file that they name is not there.
        """
        layout.checked_name(kind), layout.checked_attempt(attempt)
        arrows = {name: _arrow_of_attempt(id, attempt, name, rows) for name, rows in tables.items()}
        contents = {layout.table_file(name, id): parquet_bytes(arrow) for name, arrow in arrows.items()}
        digests = {file: sha256_of(content) for file, content in contents.items()}
        for file, sha256 in _weights_named_in(arrows.values()):
            self._check_written(id, attempt, file)
            digests[file] = sha256
        record = json_bytes({"id": id, "kind": kind, "attempt": attempt, "files": digests})
        with locked(self.directory / layout.LOCK):
            if self.is_committed(id):
                return False
            self._remove_tables(id)  # an attempt that died before its commit may have had others
            try:
                for file, content in contents.items():
                    write_whole(self.directory / file, content)
                write_whole(self.directory / layout.commit_file(id), record)
            except BaseException:
                self._remove_uncommitted()
                raise
        return True

    def read_table(self, name: str) -> pa.Table:
        """All committed rows of a table, by id, with its full schema even where there are none.

        Raises CorruptFileError, which names the file, where one is missing, truncated or altered.
        """
        parts = [table_named(name).schema.empty_table()]
        for id in sorted(self.committed()):
            file, digests = layout.table_file(name, id), self.commit_record(id)["files"]
            if file in digests:
                parts.append(read_parquet(self._read(file, digests[file])))
        return pa.concat_tables(parts)

    def verify(self) -> None:
        """Reads the base and every committed file. Raises CorruptFileError, a line for each that is not as written."""
        problems: list[str] = []
        files = {layout.BASE: self._base_sha256()} if self.has_base else {}
        for id in sorted(self.committed()):
            try:
                files |= self.commit_record(id)["files"]
            except CorruptFileError as error:
                problems.append(str(error))
        for file, sha256 in files.items():
            try:
                self._read(file, sha256)
            except CorruptFileError as error:
                problems.append(str(error))
        if problems:
            raise CorruptFileError("\n".join(problems))

    def _base_sha256(self) -> str:
        try:
            return (self.directory / layout.BASE_SHA256).read_text().split()[0]
        except FileNotFoundError as error:
            raise RecordsError(f"no base weights in {self.directory} yet. Run a study into it first") from error
        except (ValueError, IndexError) as error:
            raise self._corrupt(layout.BASE_SHA256, "is truncated or altered") from error

    def _check_written(self, id: str, attempt: int, file: str) -> None:
        if not layout.may_name(id, attempt, file):
            raise UsageError(f"a row of {id!r} names {file!r}, which no attempt at it up to {attempt} can have written")
        if not (self.directory / file).is_file():
            raise RecordsError(
                f"{self.directory / file}, which a row of {id!r} names, cannot be seen from here. "
                "Use a directory on a file system that every worker shares"
            )

    def _remove_uncommitted(self) -> None:
        """Removes the tables of attempts that died before their commit; for the holder of the lock alone.

        Our readers skip them, but others read whole directories.
        """
        written = set[str]().union(*(_ids(self.directory / name) for name in TABLES))
        for id in written - self.committed():
            self._remove_tables(id)

    def _remove_tables(self, id: str) -> None:
        for name in TABLES:
            (self.directory / layout.table_file(name, id)).unlink(missing_ok=True)

    def _read(self, file: str, sha256: str | None = None) -> bytes:
        """The content of a file that should be there, with that SHA-256 where one is given."""
        try:
            content = (self.directory / file).read_bytes()
        except FileNotFoundError as error:
            raise self._corrupt(file, "is missing") from error
        except OSError as error:
            raise RecordsError(f"could not read {self.directory / file}: {error.strerror}") from error
        if sha256 not in (None, sha256_of(content)):
            raise self._corrupt(file, "is truncated or altered")
        return content

    def _corrupt(self, file: str, what: str) -> CorruptFileError:
        return CorruptFileError(f"{self.directory / file} {what}. {layout.remedy(file)}")


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RecordsError(f"could not read {directory}: {error.strerror}") from error


def _ids(directory: Path) -> set[str]:
    return {id for name in _names(directory) if (id := layout.id_of(name))}


def _arrow_of_attempt(id: str, attempt: int, name: str, rows: Rows) -> pa.Table:
    arrow = to_arrow(name, rows)
    id_column = table_named(name).key[0]
    if strangers := set(arrow[id_column].unique().to_pylist()) - {id}:
        raise UsageError(f"rows for table {name!r} have {id_column} {sorted(strangers)}, but {id!r} is being committed")
    if later := [number for number in arrow["attempt"].unique().to_pylist() if not 1 <= number <= attempt]:
        raise UsageError(f"rows for table {name!r} have attempt {later}, but attempt {attempt} is being committed")
    return arrow


def _weights_named_in(arrows: Iterable[pa.Table]) -> list[tuple[str, str]]:
    """The different pairs of file and SHA-256 in the rows, without nulls, in order."""
    pairs = {
        pair
        for arrow in arrows
        if "weights_file" in arrow.column_names
        for pair in zip(arrow["weights_file"].to_pylist(), arrow["weights_sha256"].to_pylist(), strict=True)
    }
    named = pairs - {(None, None)}
    if incomplete := [pair for pair in named if None in pair]:
        raise UsageError(f"weights_file and weights_sha256 go together; a row has {incomplete[0]}")
    return sorted(named)
