"""One trial of a search: its jobs, and what it reports of every saved point.

A report holds `percent` (of the path's steps), all objectives (NaN until known), `given_up` (whether the path has not
reached its end), and the results of the trial's jobs as they would be if it ended there. Whoever decides which trials
go on commits those of the last report.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from fipray.execution.jobs import Artifact, Job, Tables
from fipray.execution.kinds import artifacts_of
from fipray.execution.tracing import GIVEN_UP, NOT_FINITE
from fipray.execution.worker import Worker
from fipray.records import Store
from fipray.study.canonical import kind_of
from fipray.study.search import ROBUST, Search

PERCENT, IS_GIVEN_UP = "percent", "given_up"


@dataclass(frozen=True)
class JobResult:
    """Result of one attempt at a job.

    Args:
        id: ID of the job.
        kind: registered name of its spec's class.
        attempt: number of the attempt.
        tables: rows by table.
    """

    id: str
    kind: str
    attempt: int
    tables: Tables

    @classmethod
    def of_json(cls, text: str) -> list[Self]:
        """Parse the rows of a report.

        Args:
            text: the results, as `to_json` writes them.

        Returns:
            Results of the trial's jobs, in order.
        """
        return [cls(**fields) for fields in json.loads(text)]

    @staticmethod
    def to_json(results: Sequence[JobResult]) -> str:
        """Write results as JSON.

        Args:
            results: results of a trial's jobs.

        Returns:
            The text.
        """
        return json.dumps([vars(result) for result in results])


Report = Callable[[Mapping[str, Any], Sequence[JobResult]], None]
"""Receiver of a report: its metrics, and results of jobs. An exception that it raises ends the trial."""


def run_jobs(config: Mapping[str, Any], search: Search, worker: Worker, store: Store, reporter: TrialReporter) -> None:
    """Run the jobs of a trial that are not committed yet.

    Args:
        config: values drawn by the searcher, by field of the spec.
        search: the search.
        worker: worker that runs the jobs.
        store: results directory.
        reporter: reports of this trial.
    """
    artifacts: dict[str, Artifact] = {}
    for id, spec in search.job(config).items():
        if store.is_committed(id):
            tables = committed_rows(store)[id]
            if spec.last_step is not None:
                reporter.replay(tables, spec.last_step)
        else:
            attempt = store.next_attempt(id)
            job = Job(id, spec, attempt, {name: artifacts[name] for name in spec.dependencies})
            tables = worker.run(job, partial(reporter.report_point, job))
            reporter.add(job, tables)
        artifacts |= artifacts_of(tables)
        reporter.update(tables)
        if tables.get("paths") and tables["paths"][0]["outcome_kind"] == GIVEN_UP:
            break  # an earlier trial with the same values was stopped early, so there is no end to evaluate
    reporter.report_end()


def replay_committed(
    config: Mapping[str, Any], search: Search, rows: Mapping[str, Tables], reporter: TrialReporter
) -> None:
    """Report a committed trial again, point by point.

    Args:
        config: values drawn by the searcher, by field of the spec.
        search: the search.
        rows: rows of committed jobs, as `committed_rows` reads them.
        reporter: receives the reports.
    """
    for id, spec in search.job(config).items():
        if tables := rows.get(id):
            if spec.last_step is not None:
                reporter.replay(tables, spec.last_step)
            reporter.update(tables)
    reporter.report_end()


class TrialReporter:
    """Reports of one trial.

    Args:
        search: the search.
        report: receives each report.
    """

    def __init__(self, search: Search, report: Report) -> None:
        self._send = report
        self._metrics: dict[str, Any] = {
            PERCENT: 0.0,
            IS_GIVEN_UP: True,
            **dict.fromkeys(search.objectives, float("nan")),
        }
        self._objectives = search.objectives
        self._results: list[JobResult] = []
        self._is_not_finite = False

    def report_point(self, job: Job, tables: Tables) -> None:
        """Report a saved point. The last one is reported later, together with the evaluation of the path's end."""
        self.update(tables)
        # A scheduler that saw the last point without the evaluation could stop the trial before it.
        if tables["points"][-1]["step"] < (job.last_step or 0):
            self._report([*self._results, JobResult(job.id, kind_of(job.spec), job.attempt, tables)])

    def replay(self, tables: Tables, num_steps: int) -> None:
        """Report the points of a path that is already committed, which the scheduler has not seen in this trial."""
        for point in tables["points"]:
            self._update_point(tables, point, 100 * point["step"] / num_steps)
            if point["step"] < num_steps:
                self._report(self._results)

    def update(self, tables: Tables) -> None:
        """Update the objectives from table rows."""
        if tables.get("points"):
            row = tables["paths"][0]
            num_steps = json.loads(row["spec_json"])["num_steps"]
            self._update_point(tables, tables["points"][-1], 100 * row["num_steps"] / num_steps)
            self._metrics[IS_GIVEN_UP] = row["outcome_kind"] == GIVEN_UP
            self._is_not_finite = row["outcome_kind"] == NOT_FINITE
        if tables.get("robustness") and ROBUST in self._objectives:
            self._metrics[ROBUST] = tables["robustness"][-1]["robust_accuracy"]
        if self._is_not_finite:
            # Its last finite point may be the base network at distance 0, which would attract the searcher.
            self._metrics |= {name: math.inf if mode == "min" else -math.inf for name, mode in self._objectives.items()}

    def _update_point(self, tables: Tables, point: Mapping[str, Any], percent: float) -> None:
        measures = tables.get("point_measures", ())
        measured = {row["measure"]: row["value"] for row in measures if row["step"] == point["step"]}
        known = {**point, **measured}
        self._metrics |= {name: known[name] for name in self._objectives if name in known}
        self._metrics[PERCENT] = percent

    def add(self, job: Job, tables: Tables) -> None:
        self._results.append(JobResult(job.id, kind_of(job.spec), job.attempt, tables))

    def report_end(self) -> None:
        """Report the end of the trial."""
        self._report(self._results)

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics of the last report."""
        return dict(self._metrics)

    def _report(self, results: Sequence[JobResult]) -> None:
        self._send(self.metrics, list(results))


def committed_rows(store: Store) -> dict[str, Tables]:
    """Read the rows of committed jobs, of the tables that a trial uses.

    Args:
        store: results directory.

    Returns:
        Rows by table, by the ID of the job.
    """
    keys = {"paths": "path_id", "points": "path_id", "robustness": "robustness_id", "per_example": "per_example_id"}
    keys |= {"point_measures": "path_id"}
    found: dict[str, Tables] = {}
    for table, rows in store.read_tables(keys).items():
        for row in rows.to_pylist():
            found.setdefault(row[keys[table]], {}).setdefault(table, []).append(row)
    return found
