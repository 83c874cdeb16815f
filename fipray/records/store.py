"""Results directories: atomic writes, commits, and reads of what is committed. `layout.py` lists the files.

Workers write weights under their own attempt number and return rows; the driver writes tables and, last of all, the
commit record. Readers read only what a commit record names, so output of an abandoned attempt never appears, even if
its worker is still running. Each ID is in one commit, so no reader sees a (path, step) twice; jobs that finish at the
same time share a commit.
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
    """Results directory that all workers share, on a file system or in an object store.

    Use `Store.create_or_open` or `Store.open` to make one.

    Args:
        files: files of the directory.
        manifest: name, ID and parameters of the study.
        commits: commits of the directory.
    """

    files: Files
    manifest: Manifest
    commits: Commits = field(repr=False, compare=False)

    @classmethod
    def create_or_open(cls, directory: str | Path, manifest: Manifest) -> Self:
        """Open the results directory of a study for writing; create it if it is missing.

        Removes unfinished files of writers that died.

        Args:
            directory: directory, or address such as s3://bucket/directory.
            manifest: plain JSON data with at least `study` (its name), `study_id` and `parameters` (a mapping).

        Returns:
            The results directory.

        Raises:
            UsageError: if the directory belongs to another study, or the manifest is invalid.
            RecordsError: if the directory holds anything else or cannot be written.
        """
        files, content = files_at(directory), manifest_bytes(manifest)
        files.make()
        # Another driver that is about to write the manifest may have made the lock already.
        entries = sorted(name for name in files.names("") if not name.startswith(layout.LOCK))
        if entries and layout.MANIFEST not in entries:
            some = ", ".join(entries[:3]) + (", ..." if len(entries) > 3 else "")
            raise RecordsError(
                f"{files.address} is not a results directory: it holds {some} but no {layout.MANIFEST}. "
                "Choose a new or an empty directory"
            )
        # Under the lock: of two drivers that start at once, one writes the manifest and the other is compared with it.
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
        """Open an existing results directory.

        Args:
            directory: directory, or address such as s3://bucket/directory.

        Returns:
            The results directory.

        Raises:
            RecordsError: if there is none, or one of another schema version.
        """
        files = files_at(directory)
        return cls(files, read_manifest(files), Commits(files))

    @property
    def address(self) -> str:
        """Directory or address for messages, without credentials."""
        return self.files.address

    @property
    def location(self) -> str:
        """Directory or address that opens it on every machine. It may contain credentials and is never shown."""
        return self.files.location

    @property
    def directory(self) -> Path:
        """Directory on a file system; UsageError if the results are in an object store."""
        if not isinstance(self.files, LocalFiles):
            raise UsageError(f"{self.address} is in an object store, not in a directory of this machine")
        return self.files.directory

    @property
    def is_near(self) -> bool:
        """True for a directory on a file system, where reads are cheap."""
        return isinstance(self.files, LocalFiles)

    def beside(self, name: str) -> tuple[str, Any]:
        """Place of a subdirectory for the files of another library.

        Args:
            name: name of the subdirectory.

        Returns:
            Its path, and the pyarrow file system that it is on; None for the local one.

        Raises:
            RecordsError: if it contains links or anything but files and directories.
        """
        return self.files.beside(name)

    def is_committed(self, id: str) -> bool:
        """Test whether an attempt at an ID is committed.

        Args:
            id: ID of a job.

        Returns:
            Whether one is.
        """
        layout.checked_name(id)
        return id in self.commits.names()

    def committed(self) -> set[str]:
        """All committed IDs."""
        return set(self.commits.names())

    def commit_record(self, id: str) -> CommitRecord:
        """Commit record that holds an ID.

        Args:
            id: ID of a job.

        Returns:
            The record.

        Raises:
            UsageError: if the ID is not committed.
        """
        if not self.is_committed(id):
            raise UsageError(f"{id!r} is not committed in {self.address}")
        return self.commits.record(self.commits.known()[id])

    def next_attempt(self, id: str) -> int:
        """Reserve the next attempt number of an ID. No other process, on any machine, gets the same one.

        Args:
            id: ID of a job.

        Returns:
            The number, from 1.

        Raises:
            RecordsError: where the last valid number is taken.
        """
        directory = layout.attempts_directory(id)
        numbers = self.attempts(id)
        if id in self.commits.known():
            numbers.append(self.commit_record(id)["attempts"][id])  # its weights may have been deleted
        for attempt in range(max(numbers, default=0) + 1, layout.MOST_ATTEMPTS + 1):
            # Another process may claim the same number at this moment: then the next one is tried.
            if self.files.claim(layout.attempt_directory(id, attempt)):
                return attempt
        raise RecordsError(
            f"{self.files.named(directory)} holds attempt {layout.MOST_ATTEMPTS:,}, the last valid number. Remove that "
            "directory"
        )

    @property
    def has_base(self) -> bool:
        """True once the base weights are written."""
        return self.files.exists(layout.BASE_SHA256)  # written after the weights

    def write_base(self, arrays: Arrays) -> tuple[str, str]:
        """Write the base weights, unless some are written already.

        Args:
            arrays: the base network's `state_dict`.

        Returns:
            Name and SHA-256 of the file that is valid, which may be that of an earlier call.
        """
        content = safetensors_bytes(arrays)
        # The digest is written last: weights without it are those of a writer that died, and are written again.
        with self.files.locked():
            if not self.has_base:
                self.files.write(layout.BASE, content)
                self.files.write(layout.BASE_SHA256, _digest_file(sha256_of(content)))
        return layout.BASE, self._base_sha256()

    def read_base(self) -> dict[str, np.ndarray]:
        """Read the base weights: arrays by name, as in the network's `state_dict`.

        Returns:
            Arrays by name.

        Raises:
            RecordsError: if none are written yet.
            CorruptFileError: if the file was altered or does not fit the study's network.
        """
        arrays = self._arrays(layout.BASE, self._base_sha256())
        for names, shape in self.manifest.get("parameters_of_module", ()):
            for name in names:
                if name not in arrays or list(arrays[name].shape) != shape:
                    raise self.commits.corrupt(layout.BASE, f"holds no {name!r} of shape {tuple(shape)}")
        return arrays

    def write_weights(self, id: str, attempt: int, name: str, arrays: Arrays) -> tuple[str, str]:
        """Write arrays of one attempt as a safetensors file.

        Args:
            id: ID of the job.
            attempt: number of the attempt.
            name: name of the file without its suffix.
            arrays: arrays by name; for weights of a network {"weights": [P]}, P the number of weights.

        Returns:
            Name of the file relative to the directory, and its SHA-256: the columns `weights_file`, `weights_sha256`.
        """
        file, content = layout.weights_file(id, attempt, name), safetensors_bytes(arrays)
        self.files.write(file, content)
        return file, sha256_of(content)

    def read_weights(self, file: str | None, sha256: str | None) -> dict[str, np.ndarray]:
        """Read a weights file that a row names.

        Args:
            file: value of the row's `weights_file`.
            sha256: value of the row's `weights_sha256`.

        Returns:
            Arrays by name; flat weights [P] as "weights".

        Raises:
            CorruptFileError: if the file is missing, was altered, or does not fit the study's network.
            RecordsError: if the row names no file, or one that is not a weights file.
        """
        if sha256 is None:
            raise RecordsError(f"a row names the weights file {file!r} without its SHA-256, so it cannot be verified")
        arrays = self._arrays(layout.checked_weights_file(file), sha256)
        # The base file holds a state_dict, under the names of the parameters.
        weights, wanted = arrays.get("weights"), num_weights(self.manifest)
        if file != layout.BASE and (weights is None or weights.ndim != 1 or wanted not in (None, len(weights))):
            found = f"weights of shape {weights.shape}" if weights is not None else "no weights"
            expected = f"{wanted} weights" if wanted else "a vector of weights"
            raise self.commits.corrupt(str(file), f"holds {found}; the study's network has {expected}")
        return arrays

    def read_unnamed(self, file: str) -> dict[str, np.ndarray]:
        """Read a weights file that no row names, without verification.

        Args:
            file: file name.

        Returns:
            Arrays by name. The caller must check that they are what was written.

        Raises:
            CorruptFileError: if the file is missing or is not a safetensors file.
        """
        return self._arrays(layout.checked_weights_file(file), None)

    def _arrays(self, file: str, sha256: str | None) -> dict[str, np.ndarray]:
        content = self.commits.read(file, sha256)
        try:
            return read_safetensors(content)
        except ValueError as error:
            raise self.commits.corrupt(file, f"is not a valid weights file: {error}") from error

    def attempt_files(self, id: str, attempt: int) -> list[str]:
        """List the weights files that one attempt has written so far.

        Args:
            id: ID of the job.
            attempt: number of the attempt.

        Returns:
            File names, sorted.
        """
        directory = layout.attempt_directory(id, attempt)
        files = [f"{directory}/{name}" for name in sorted(self.files.names(directory))]
        return [file for file in files if layout.id_of_weights(file)]

    def write_log(self, id: str, attempt: int, text: str) -> str:
        """Write the log of one attempt.

        Args:
            id: ID of the job.
            attempt: number of the attempt.
            text: its output and warnings.

        Returns:
            Name of the file relative to the directory.
        """
        file = layout.log_file(id, attempt)
        # Printed text can hold lone surrogates, which UTF-8 cannot encode.
        self.files.write(file, text.encode(errors="backslashreplace"))
        return file

    def read_log(self, id: str, attempt: int) -> str:
        """Read the log of one attempt.

        Args:
            id: ID of the job.
            attempt: number of the attempt.

        Returns:
            Its output and warnings.

        Raises:
            CorruptFileError: if there is no log, as of an attempt that was killed.
        """
        return self.commits.read(layout.log_file(id, attempt)).decode(errors="backslashreplace")

    def attempts(self, id: str) -> list[int]:
        """List the attempts at an ID.

        Args:
            id: ID of a job.

        Returns:
            Numbers of the attempts that were started, sorted.
        """
        names = self.files.names(layout.attempts_directory(id))
        return sorted(number for name in names if (number := layout.attempt_of(name)))

    def remove_weights(self, file: str) -> None:
        """Remove a weights file that no row names.

        Args:
            file: file name.
        """
        self.files.remove(layout.checked_weights_file(file))

    def commit(self, id: str, kind: str, attempt: int, tables: Mapping[str, Rows]) -> bool:
        """Commit one attempt, see `commit_all`.

        Args:
            id: ID of the job.
            kind: kind of the job, such as "path".
            attempt: number of the attempt.
            tables: the rows that it produced, by the name of their table.

        Returns:
            Whether it is committed now; False if another attempt was committed before.
        """
        return self.commit_all([Attempt(id, kind, attempt, tables)]) == {id}

    def commit_all(self, attempts: Sequence[Attempt]) -> set[str]:
        """Commit attempts at different IDs atomically: write their tables, then one commit record.

        Studies and searches both commit through this method, each from its driver alone.

        Args:
            attempts: the attempts. The first key column of each of their tables must hold their ID.

        Returns:
            IDs that are committed now. Nothing is written for those of which another attempt was committed before.

        Raises:
            UsageError: for rows that do not fit the schema or their attempt.
            RecordsError: if a weights file that a row names does not exist, or a file cannot be written.
        """
        if len({attempt.id for attempt in attempts}) < len(attempts):
            raise UsageError("several attempts at one ID were given, and only one can be committed: give one")
        # The commit gets the name of the first, and readers of rows in order of ID need not sort them.
        attempts = sorted(attempts, key=lambda attempt: attempt.id)
        tables = checked_tables(self.files, attempts)  # before taking the lock: it lists directories of weights
        with self.files.locked():
            committed = self.commits.names()
            new = [attempt for attempt in attempts if attempt.id not in committed]
            # Only the rest is written: converted again, as the tables hold the rows of all attempts.
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
        """Read all committed rows of a table.

        Args:
            name: name of the table.

        Returns:
            Rows sorted by ID, with the full schema even if there are none.

        Raises:
            CorruptFileError: if a file is missing or was altered; the message names it.
        """
        return self.read_tables([name])[name]

    def read_tables(self, names: Iterable[str] = TABLES) -> dict[str, pa.Table]:
        """Read several tables as of one moment.

        Args:
            names: names of the tables; by default all.

        Returns:
            Rows of each table, as of `read_table`.

        Raises:
            CorruptFileError: if a file is missing or was altered; the message names it.
        """
        wanted = [table_named(name).name for name in names]
        while True:
            commits = sorted(set(self.commits.names().values()))
            try:
                return {name: self.commits.rows(name, commits) for name in wanted}
            except CorruptFileError:
                # Another process may have compacted the commit meanwhile: then its rows are in another one.
                if not self.commits.have_changed():
                    raise

    def verify(self, weights: bool = True) -> None:
        """Verify checksums and content of the base, all tables and the weights that rows name.

        Args:
            weights: whether to read the weights, too.

        Raises:
            CorruptFileError: if there are damaged files, with a line for each.
        """
        problems: list[str] = []
        # Records that were altered after they were cached must be found, too.
        self.commits.forget()
        names = sorted(set(self.commits.names(problems).values()))
        checks = Checks(self.commits, problems)
        # Weights without a digest are damage only if there are results: without, the first run was cut off there.
        if self.has_base or (names and self.files.exists(layout.BASE)):
            checks.collect(self.read_base)
        named = checks.weights_named_in(names)
        if weights:
            self.commits.each(lambda pair: bool(checks.collect(self.read_weights, *pair)), sorted(named))
        if problems:
            raise CorruptFileError("\n".join(sorted(set(problems))))  # several tables may name one damaged file

    def _base_sha256(self) -> str:
        try:
            content = self.files.read(layout.BASE_SHA256)
        except FileNotFoundError as error:
            # Without commits, the first run was cut off between weights and digest, which is no damage.
            if self.files.exists(layout.BASE) and self.commits.names():
                raise self.commits.corrupt(layout.BASE_SHA256, "is missing") from error
            raise RecordsError(f"there are no base weights in {self.address} yet. Run a study into it first") from error
        sha256 = content[:64].decode("ascii", "replace")
        if not layout.is_sha256(sha256) or content != _digest_file(sha256):
            raise self.commits.corrupt(layout.BASE_SHA256, "is truncated or altered")
        return sha256


def _digest_file(sha256: str) -> bytes:
    """Content of the digest file, in the format of `sha256sum`."""
    return f"{sha256}  {layout.BASE}\n".encode()
