"""Commits of trials, and the finished trials of a results directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fipray.execution import checkpoints
from fipray.execution.jobs import Job, Tables
from fipray.execution.kinds.path import summarize
from fipray.execution.listeners import Listener
from fipray.execution.searching.trials import (
    IS_GIVEN_UP,
    PERCENT,
    JobResult,
    TrialReporter,
    committed_rows,
    replay_committed,
)
from fipray.records import Store
from fipray.study.draws import Drawn, grid_draws, random_draws
from fipray.study.search import Search


@dataclass(frozen=True)
class FinishedTrial:
    """Trial whose results are committed.

    Args:
        path_id: ID of its path.
        drawn: draws by dotted name.
        metrics: metrics at its end.
        points: first objective by percent of the path's steps, at saved points.
    """

    path_id: str
    drawn: Drawn
    metrics: Mapping[str, Any]
    points: Mapping[int, float]

    @property
    def is_given_up(self) -> bool:
        """True for a trial that was stopped before its end."""
        return bool(self.metrics[IS_GIVEN_UP])


@dataclass(frozen=True)
class TrialRecords:
    """Results of a search's trials. The only writer of its tables and commit records.

    Args:
        search: the search.
        store: its results directory.
        listener: receives events.
    """

    search: Search
    store: Store
    listener: Listener

    def job(self, drawn: Mapping[str, Any]) -> Job:
        """Path of a trial as a job, for the listener.

        Args:
            drawn: draws by dotted name.

        Returns:
            The job, with attempt 0.
        """
        id, spec = next(iter(self.search.job(drawn).items()))
        return Job(id, spec, 0, {})

    def values(self, drawn: Mapping[str, Any]) -> str:
        """Describe the values of a trial in a line.

        Args:
            drawn: draws by dotted name.

        Returns:
            Names and values.
        """
        return ", ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in self.search.values(drawn).items()
        )

    def label(self, trial_id: str, drawn: Mapping[str, Any]) -> str:
        """Name a trial in messages.

        Args:
            trial_id: its ID.
            drawn: draws by dotted name.

        Returns:
            ID and values.
        """
        return f"trial {trial_id} ({self.values(drawn)})"

    def commit(
        self,
        trial_id: str,
        drawn: Mapping[str, Any],
        results: Sequence[JobResult],
        metrics: Mapping[str, Any],
        seconds: float,
    ) -> None:
        """Commit a trial that reached its end or was stopped early.

        Args:
            trial_id: its ID.
            drawn: draws by dotted name.
            results: results of its jobs.
            metrics: metrics at its end.
            seconds: time that it took.
        """
        sentence = "these values were tried before; their results are reused"
        # The path comes last, in one commit with the trial's row: once that row exists, nothing is missing.
        for finished in reversed(results):
            tables = finished.tables
            if rows := tables.get("paths"):
                tables = {**tables, "trials": [self._row(trial_id, drawn, rows[0])]}
            if self.store.commit(finished.id, finished.kind, finished.attempt, tables):
                self.listener.committed(self.job(drawn), tables)
                sentence = summarize(tables) if rows else sentence
            checkpoints.remove(self.store, finished.id)
        if not metrics[IS_GIVEN_UP] and len(self.search.objectives) > 1:
            sentence += "; " + ", ".join(f"{name} {metrics[name]:.4g}" for name in self.search.objectives)
        self.listener.finished(self.job(drawn), f"{self.values(drawn)}: {sentence}", seconds)

    def _row(self, trial_id: str, drawn: Mapping[str, Any], path: Mapping[str, Any]) -> dict[str, Any]:
        shared = ("study", "path_id", "name", "num_steps", "outcome_kind", "attempt")
        config = self.search.config_json(drawn)
        return {**{name: path[name] for name in shared}, "trial_id": trial_id, "config_json": config}

    def finished(self) -> list[FinishedTrial]:
        """Read the finished trials, in the order of their IDs."""
        rows = sorted(self.store.read_table("trials").to_pylist(), key=lambda row: row["trial_id"])
        committed = committed_rows(self.store)
        return [self._finished(row["path_id"], self.search.drawn(row["config_json"]), committed) for row in rows]

    def _finished(self, path_id: str, drawn: Drawn, committed: Mapping[str, Tables]) -> FinishedTrial:
        points: dict[int, float] = {}

        def add(metrics: Mapping[str, Any], results: Sequence[JobResult]) -> None:
            points[round(metrics[PERCENT])] = metrics[self.search.first_objective]

        reporter = TrialReporter(self.search, add)
        replay_committed(drawn, self.search, committed, reporter)
        return FinishedTrial(path_id, drawn, reporter.metrics, points)

    def remaining(self) -> list[Drawn]:
        """List the trials of a random or grid search that are not finished, each once.

        Returns:
            Draws of each.
        """
        search, found = self.search, dict[tuple[Any, ...], Drawn]()
        draws = grid_draws(search.space) if search.searcher == "grid" else random_draws(search.space, search.seed)
        for drawn in draws:
            found.setdefault(tuple(drawn.values()), drawn)
            # Equal draws count once: a space of a few values is drawn from until all that were asked for are there.
            if len(found) == search.total:
                break
        return [drawn for drawn in found.values() if not self.store.is_committed(self.job(drawn).id)]
