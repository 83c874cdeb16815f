"""A results directory: whole-or-nothing writes, commits, reads. `layout.py` draws what is in it.

Workers write weights under their own attempt number and hand rows back; the driver writes tables and, last of all, the
commit record. Readers read only what a commit record names, so an attempt that does not count never shows, however long
its worker lives on. There is one file for an id and table: no reader sees a (path, step) twice.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeAlias, TypedDict, final

import numpy as np
import pyarrow as pa
import safetensors.numpy

from fipray.errors import CorruptFileError, RecordsError, UsageError
from fipray.records import layout
from fipray.records.encoding import json_bytes, parquet_bytes, read_parquet, safetensors_bytes, sha256_of
from fipray.records.files import is_temporary, locked, make_directory, remove_leftovers, write_whole
from fipray.records.manifest import Manifest, check_same_study, manifest_bytes, read_manifest
from fipray.records.schema import SCHEMA_VERSION, TABLES, table_named, to_arrow

Rows: TypeAlias = Sequence[Mapping[str, object]] | pa.Table
Arrays: TypeAlias = Mapping[str, np.ndarray]


class FileRecord(TypedDict):
    """A committed file: its name relative to the directory, and its SHA-256 in hexadecimal."""

    file: str
    sha256: str


class CommitRecord(TypedDict):
    """What commits/<id>.json holds. `tables`: by name of the table."""

    schema_version: int
    id: str
    kind: str
    attempt: int
    tables: dict[str, FileRecord]
    weights: list[FileRecord]


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
        return {id for name in _names(self.directory / layout.COMMITS) if (id := layout.committed_id(name))}

    def commit_record(self, id: str) -> CommitRecord:
        """Which attempt at the id counts, and its files. Raises UsageError for an id that is not committed."""
        file = layout.commit_file(id)
        try:
            record: CommitRecord = json.loads((self.directory / file).read_bytes())
            _ = record["attempt"], record["tables"], record["weights"]
        except FileNotFoundError as error:
            raise UsageError(f"{id!r} is not committed in {self.directory}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise self._corrupt(file, "is truncated or altered") from error
        return record

    def next_attempt(self, id: str) -> int:
        """A number that no attempt at the id has had, from 1; it is the caller's from now on, on any machine."""
        directory = self.directory / layout.WEIGHTS / layout.checked_name(id)
        numbers = [int(name) for name in _names(directory) if name.isdecimal()]
        if self.is_committed(id):
            numbers.append(self.commit_record(id)["attempt"])
        attempt = max(numbers, default=0) + 1
        try:
            make_directory(directory)
            (directory / str(attempt)).mkdir()
        except FileExistsError:  # somebody else was faster
            return self.next_attempt(id)
        except OSError as error:
            raise RecordsError(f"could not make {directory / str(attempt)}: {error.strerror}") from error
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

    def read_weights(self, file: str, sha256: str) -> dict[str, np.ndarray]:
        """The arrays of a file that a row names. Raises CorruptFileError where it is missing or not as written."""
        content = self._read(layout.checked_weights_file(file), sha256)
        return safetensors.numpy.load(content)

    def commit(self, id: str, kind: str, attempt: int, tables: Mapping[str, Rows]) -> bool:
        """Makes this attempt at the id the one that counts: writes its tables, then the commit record.

        False, and nothing is written, where another attempt counts already. The first key column of each table must be
        `id`. Raises UsageError for rows that do not fit, RecordsError where a weights file that they name is not there.
        """
        arrows = {name: _arrow_of_attempt(id, attempt, name, rows) for name, rows in tables.items()}
        contents = {name: parquet_bytes(arrow) for name, arrow in arrows.items()}
        record = CommitRecord(
            schema_version=SCHEMA_VERSION,
            id=layout.checked_name(id),
            kind=layout.checked_name(kind),
            attempt=layout.checked_attempt(attempt),
            tables={
                name: FileRecord(file=layout.table_file(name, id), sha256=sha256_of(content))
                for name, content in contents.items()
            },
            weights=[self._weights_record(id, attempt, *named) for named in _weights_named_in(arrows.values())],
        )
        with locked(self.directory / layout.LOCK):
            if self.is_committed(id):
                return False
            for name in TABLES.keys() - contents.keys():
                # Left by an attempt that was never committed. Our readers skip it; others read whole directories.
                (self.directory / layout.table_file(name, id)).unlink(missing_ok=True)
            for name, content in contents.items():
                write_whole(self.directory / layout.table_file(name, id), content)
            write_whole(self.directory / layout.commit_file(id), json_bytes(record))
        return True

    def read_table(self, name: str) -> pa.Table:
        """All committed rows of a table, by id, with its full schema even where there are none.

        Raises CorruptFileError, which names the file, where one is missing, truncated or altered.
        """
        table = table_named(name)
        records = [self.commit_record(id)["tables"].get(name) for id in sorted(self.committed())]
        parts = [read_parquet(self._read(record["file"], record["sha256"])) for record in records if record]
        return pa.concat_tables([table.schema.empty_table(), *parts])

    def verify(self) -> None:
        """Reads the base and every committed file. Raises CorruptFileError, a line for each that is not as written."""
        problems: list[str] = []
        files = {layout.BASE: self._base_sha256()} if self.has_base else {}
        for id in sorted(self.committed()):
            try:
                record = self.commit_record(id)
            except CorruptFileError as error:
                problems.append(str(error))
            else:
                files |= {file["file"]: file["sha256"] for file in (*record["tables"].values(), *record["weights"])}
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

    def _weights_record(self, id: str, attempt: int, file: str, sha256: str) -> FileRecord:
        if not layout.may_name(id, attempt, file):
            raise UsageError(f"a row of {id!r} names {file!r}, which no attempt at it up to {attempt} can have written")
        try:
            (self.directory / file).stat()
        except OSError as error:
            raise RecordsError(
                f"{self.directory / file}, which a row of {id!r} names, cannot be seen from here: {error.strerror}. "
                "Use a directory on a file system that every worker shares"
            ) from error
        return FileRecord(file=file, sha256=sha256)

    def _read(self, file: str, sha256: str) -> bytes:
        try:
            content = (self.directory / file).read_bytes()
        except FileNotFoundError as error:
            raise self._corrupt(file, "is missing") from error
        except OSError as error:
            raise RecordsError(f"could not read {self.directory / file}: {error.strerror}") from error
        if sha256_of(content) != sha256:
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
