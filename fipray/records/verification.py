"""Verification of all committed files, continuing past those that cannot be read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, final

from fipray.errors import RecordsError
from fipray.records import layout
from fipray.records.commits import Commits
from fipray.records.tables import TABLES, Table

_Made = TypeVar("_Made")
_Pairs = set[tuple[str, str]]


@final
@dataclass(frozen=True)
class Checks:
    """Checks of a results directory that collect problems instead of stopping at the first.

    Args:
        commits: commits of the directory.
        problems: list to which a message per problem is added.
    """

    commits: Commits
    problems: list[str]

    def collect(self, work: Callable[..., _Made], *arguments: Any) -> _Made | None:
        """Call a function and collect its RecordsError.

        Args:
            work: function to call.
            *arguments: its arguments.

        Returns:
            Its result; None if it raised RecordsError.
        """
        try:
            return work(*arguments)
        except RecordsError as error:
            self.problems.append(str(error))
            return None

    def weights_named_in(self, commits: Sequence[str]) -> _Pairs:
        """Read and check all rows of some commits.

        Args:
            commits: names of commits.

        Returns:
            Weights files that the rows name, each with its SHA-256.
        """
        named: _Pairs = set()
        for table in TABLES.values():
            try:
                named |= self._named(table, commits)  # all at once is many times as fast as one by one
            except RecordsError:
                each = self.commits.each(partial(self._named_in_one, table), commits)
                named |= {pair for pairs in each for pair in pairs}
        return named

    def _named_in_one(self, table: Table, commit: str) -> _Pairs:
        return self.collect(self._named, table, [commit]) or set()

    def _named(self, table: Table, commits: Sequence[str]) -> _Pairs:
        rows = self.commits.rows(table.name, commits)
        if "weights_file" not in rows.column_names:
            return set()
        columns = (table.key[0], "weights_file", "weights_sha256")
        found = set(zip(*(rows[column].to_pylist() for column in columns), strict=True))
        for id, file, _ in found:
            commit = self.commits.known()[id]
            attempt = self.commits.known_record(commit)["attempts"][id]
            if file is not None and not layout.may_name(id, attempt, file):
                place = layout.table_file(table.name, commit)
                raise self.commits.corrupt(place, f"names {file!r}, which no attempt at {id!r} can have written")
        return {(file, sha256) for _, file, sha256 in found if file is not None}
