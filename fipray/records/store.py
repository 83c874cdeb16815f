"""A results directory: whole-or-nothing writes, commits, reads. `layout.py` draws what is in it.

Workers write weights under their own attempt number and hand rows back; the driver writes tables and, last of all, the
commit record. Readers read only what a commit record names, so an attempt that does not count never shows, however long
its worker lives on. What is finished at the same time is committed together: there is one commit for an id, and no
reader sees a (path, step) twice.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeAlias, final

import numpy as np
import pyarrow as pa

from fipray.errors import CorruptFileError, RecordsError, UsageError
from fipray.records import layout
from fipray.records.attempt import Attempt, checked_tables
from fipray.records.commits import Commits
from fipray.records.encoding import read_safetensors, safetensors_bytes, sha256_of
from fipray.records.files import Files, LocalFiles, files_at
from fipray.records.manifest import Manifest, check_same_study, manifest_bytes, num_weights, read_manifest
from fipray.records.record import CommitRecord
from fipray.records.tables import TABLES, Rows, table_named
from fipray.records.verification import Checks

Arrays: TypeAlias = Mapping[str, np.ndarray]


@final
@dataclass(frozen=True)
class Store:
    """A results directory that every worker sees: on a file system, or in an object store.

    Made by `create_or_open` or `open`, from a directory or an address such as s3://bucket/directory.
    """

    files: Files
    manifest: Manifest
    commits: Commits = field(repr=False, compare=False)

    @classmethod
    def create_or_open(cls, directory: str | Path, manifest: Manifest) -> Self:
        """The results directory of this study: made where missing, else opened and freed of leftovers.

        `manifest` is plain JSON data with at least `study` (its name), `study_id` and `parameters` (a mapping).
        Raises UsageError for the directory of another study, RecordsError for one that holds anything else or
        cannot be written.
        """
        files, content = files_at(directory), manifest_bytes(manifest)
        files.make()
        entries = sorted(name for name in files.names("") if not name.startswith(layout.LOCK))
        if entries and layout.MANIFEST not in entries:
            some = ", ".join(entries[:3]) + (", ..." if len(entries) > 3 else "")
            raise RecordsError(
                f"{files.address} is no results directory: it holds {some} but no {layout.MANIFEST}. "
                "Choose a new or an empty directory"
            )
        with files.locked():
            if not files.exists(layout.MANIFEST):
                files.write(layout.MANIFEST, content)
            store = cls(files, read_manifest(files), Commits(files))
            check_same_study(files.address, store.manifest, manifest)
            store.commits.remove_dead()
        files.remove_leftovers()
        return store

    @classmethod
    def open(cls, directory: str | Path) -> Self:
        """The results directory that is there. Raises RecordsError where there is none, or one of another version."""
        files = files_at(directory)
        return cls(files, read_manifest(files), Commits(files))

    @property
    def address(self) -> str:
        """What people call the directory: where an address holds credentials, without them."""
        return self.files.address

    @property
    def location(self) -> str:
        """What the directory is opened by, here and on every other machine. Never shown, as it may hold credentials."""
        return self.files.location

    @property
    def directory(self) -> Path:
        """The directory on a file system. Raises UsageError where it is in an object store."""
        if not isinstance(self.files, LocalFiles):
            raise UsageError(f"{self.address} is in an object store, not in a directory of this machine")
        return self.files.directory

    @property
    def is_near(self) -> bool:
        """Whether reading costs next to nothing: it is on a file system."""
        return isinstance(self.files, LocalFiles)

    def beside(self, name: str) -> tuple[str, Any]:
        """Where somebody else may keep a directory of that name in this one, and the pyarrow file system that it is on;
        None for that of the machine.
        """
        return self.files.beside(name)

    def is_committed(self, id: str) -> bool:
        """Whether an attempt at this id counts already."""
        layout.checked_name(id)
        return id in self.commits.names()

    def committed(self) -> set[str]:
        """The ids of which an attempt counts."""
        return set(self.commits.names())

    def commit_record(self, id: str) -> CommitRecord:
        """The commit of an attempt at the id. Raises UsageError for an id that is not committed."""
        if not self.is_committed(id):
            raise UsageError(f"{id!r} is not committed in {self.address}")
        return self.commits.record(self.commits.known()[id])

    def next_attempt(self, id: str) -> int:
        """A number that no attempt at the id has had, from 1; it is the caller's from now on, on any machine."""
        directory = layout.attempts_directory(id)
        numbers = self.attempts(id)
        if id in self.commits.known():
            numbers.append(self.commit_record(id)["attempts"][id])
        for attempt in range(max(numbers, default=0) + 1, layout.MOST_ATTEMPTS + 1):
            if self.files.claim(layout.attempt_directory(id, attempt)):
                return attempt
        raise RecordsError(
            f"{self.files.named(directory)} holds attempt {layout.MOST_ATTEMPTS:,}, after which there are no numbers: "
            "remove it"
        )

    @property
    def has_base(self) -> bool:
        """Whether the weights that every path starts from are written."""
        return self.files.exists(layout.BASE_SHA256)

    def write_base(self, arrays: Arrays) -> tuple[str, str]:
        """Writes the weights that every path starts from, unless they are there: the first ones written count.

        Returns the name and SHA-256 of the file that counts.
        """
        content = safetensors_bytes(arrays)
        with self.files.locked():
            if not self.has_base:
                self.files.write(layout.BASE, content)
                self.files.write(layout.BASE_SHA256, _digest_file(sha256_of(content)))
        return layout.BASE, self._base_sha256()

    def read_base(self) -> dict[str, np.ndarray]:
        """The weights that every path starts from. Raises RecordsError before they are written."""
        arrays = self._arrays(layout.BASE, self._base_sha256())
        for names, shape in self.manifest.get("parameters_of_module", ()):
            for name in names:
                if name not in arrays or list(arrays[name].shape) != shape:
                    raise self.commits.corrupt(layout.BASE, f"holds no {name!r} of shape {tuple(shape)}")
        return arrays

    def write_weights(self, id: str, attempt: int, name: str, arrays: Arrays) -> tuple[str, str]:
        """Writes arrays of one attempt, such as {"weights": [P]}, as a safetensors file.

        Returns its name relative to the directory, and its SHA-256: the columns `weights_file`, `weights_sha256`.
        """
        file, content = layout.weights_file(id, attempt, name), safetensors_bytes(arrays)
        self.files.write(file, content)
        return file, sha256_of(content)

    def read_weights(self, file: str | None, sha256: str | None) -> dict[str, np.ndarray]:
        """The arrays of a file that a row names. Raises CorruptFileError where it is missing or not as written, and
        RecordsError where the row names none, or another than a weights file.
        """
        if sha256 is None:
            raise RecordsError(
                f"a row names the weights file {file!r} without its SHA-256, so nothing says what it held"
            )
        arrays = self._arrays(layout.checked_weights_file(file), sha256)
        weights, wanted = arrays.get("weights"), num_weights(self.manifest)
        if file != layout.BASE and (weights is None or weights.ndim != 1 or wanted not in (None, len(weights))):
            there = f"weights of shape {weights.shape}" if weights is not None else "no weights"
            raise self.commits.corrupt(
                str(file), f"holds {there}; the study's network has {wanted or 'a vector of them'}"
            )
        return arrays

    def read_unnamed(self, file: str) -> dict[str, np.ndarray]:
        """The arrays of a file that no row names; whether they are what was written is for the caller to find out."""
        return self._arrays(layout.checked_weights_file(file), None)

    def _arrays(self, file: str, sha256: str | None) -> dict[str, np.ndarray]:
        content = self.commits.read(file, sha256)
        try:
            return read_safetensors(content)
        except ValueError as error:
            raise self.commits.corrupt(file, f"is no weights file: {error}") from error

    def attempt_files(self, id: str, attempt: int) -> list[str]:
        """The weights files that one attempt at the id has written so far, in order of their names."""
        directory = layout.attempt_directory(id, attempt)
        files = [f"{directory}/{name}" for name in sorted(self.files.names(directory))]
        return [file for file in files if layout.id_of_weights(file)]

    def write_log(self, id: str, attempt: int, text: str) -> str:
        """Writes what one attempt printed and warned. Returns the name of the file relative to the directory."""
        file = layout.log_file(id, attempt)
        self.files.write(file, text.encode(errors="backslashreplace"))
        return file

    def read_log(self, id: str, attempt: int) -> str:
        """What one attempt printed and warned. Raises CorruptFileError where it wrote no log, as when it was killed."""
        return self.commits.read(layout.log_file(id, attempt)).decode(errors="backslashreplace")

    def attempts(self, id: str) -> list[int]:
        """The numbers of the attempts at the id that were begun."""
        names = self.files.names(layout.attempts_directory(id))
        return sorted(number for name in names if (number := layout.attempt_of(name)))

    def remove_weights(self, file: str) -> None:
        """Removes a weights file that no row names."""
        self.files.remove(layout.checked_weights_file(file))

    def commit(self, id: str, kind: str, attempt: int, tables: Mapping[str, Rows]) -> bool:
        """Makes this attempt at the id the one that counts; False where another counts already. See `commit_all`."""
        return self.commit_all([Attempt(id, kind, attempt, tables)]) == {id}

    def commit_all(self, attempts: Sequence[Attempt]) -> set[str]:
        """Makes these attempts, at different ids, the ones that count: all of them at one moment.

        Writes their tables, then the commit record. Returns the ids; without those of which another attempt counts
        already, of which nothing is written. The first key column of each table must be the id. Raises UsageError for
        rows that do not fit, RecordsError where a weights file that they name is not there.
        """
        if len({attempt.id for attempt in attempts}) < len(attempts):
            raise UsageError("of several attempts at one id only one can count: commit one of them")
        attempts = sorted(attempts, key=lambda attempt: attempt.id)
        tables = checked_tables(self.files, attempts)
        with self.files.locked():
            there = self.commits.names()
            new = [attempt for attempt in attempts if attempt.id not in there]
            if len(new) < len(attempts):
                tables = checked_tables(self.files, new)
            if new:
                self.commits.write(
                    new[0].id,
                    {attempt.id: attempt.number for attempt in new},
                    {attempt.id: attempt.kind for attempt in new},
                    tables,
                )
        return {attempt.id for attempt in new}

    def read_table(self, name: str) -> pa.Table:
        """All committed rows of a table, by id, with its full schema even where there are none.

        Raises CorruptFileError, which names the file, where one is missing, truncated or altered.
        """
        return self.read_tables([name])[name]

    def read_tables(self, names: Iterable[str] = TABLES) -> dict[str, pa.Table]:
        """The same of several tables, as of one moment."""
        wanted = [table_named(name).name for name in names]
        while True:
            commits = sorted(set(self.commits.names().values()))
            try:
                return {name: self.commits.rows(name, commits) for name in wanted}
            except CorruptFileError:
                if not self.commits.have_changed():
                    raise  # else what was not as it should be is in another commit by now

    def verify(self, weights: bool = True) -> None:
        """Reads the base and all tables and, unless told otherwise, all weights that rows name.

        Raises CorruptFileError, a line for each file that is not as written.
        """
        problems: list[str] = []
        self.commits.forget()
        names = sorted(set(self.commits.names(problems).values()))
        checks = Checks(self.commits, problems)
        if self.has_base or (names and self.files.exists(layout.BASE)):
            checks.collect(self.read_base)
        named = checks.weights_named_in(names)
        if weights:
            self.commits.each(lambda pair: bool(checks.collect(self.read_weights, *pair)), sorted(named))
        if problems:
            raise CorruptFileError("\n".join(sorted(set(problems))))

    def _base_sha256(self) -> str:
        try:
            content = self.files.read(layout.BASE_SHA256)
        except FileNotFoundError as error:
            if self.files.exists(layout.BASE) and self.commits.names():
                raise self.commits.corrupt(layout.BASE_SHA256, "is missing") from error
            raise RecordsError(f"no base weights in {self.address} yet. Run a study into it first") from error
        sha256 = content[:64].decode("ascii", "replace")
        if not layout.is_sha256(sha256) or content != _digest_file(sha256):
            raise self.commits.corrupt(layout.BASE_SHA256, "is truncated or altered")
        return sha256


def _digest_file(sha256: str) -> bytes:
    """As `sha256sum` writes it."""
    return f"{sha256}  {layout.BASE}\n".encode()
