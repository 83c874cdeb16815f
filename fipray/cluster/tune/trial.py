"""One trial of a search, in an actor of Tune. It traces a path and reports every saved point; it writes no table.

A report holds `percent` (of the path's steps), all objectives (NaN until known), `given_up` (whether the path has not
reached its end), and `rows`: as JSON, the table rows of all jobs of the trial, as they would be if it ended there. The
driver commits the rows of the last report, whether the trial reached its end or was stopped by Tune.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import ray
from ray import tune

from fipray.cluster.heartbeats import HeartbeatChannel, HeartbeatSender
from fipray.cluster.worker_actor import assigned_device
from fipray.errors import RunError
from fipray.execution.failures import sentence_of
from fipray.execution.jobs import Artifact, Job, Payload, Tables
from fipray.execution.kinds import artifacts_of
from fipray.execution.tracing import GIVEN_UP, NOT_FINITE
from fipray.execution.worker import Worker
from fipray.records import Store
from fipray.study.canonical import kind_of
from fipray.study.search import ROBUST, Search

PERCENT, ROWS, IS_GIVEN_UP, ERROR = "percent", "rows", "given_up", "error"
# An actor runs many trials of one search, and sets its worker up once.
_WORKERS: dict[str, Worker] = {}  # by results directory
_SENDERS: dict[str, HeartbeatSender] = {}  # by run


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
            text: value of `rows` in a report.

        Returns:
            Results of the trial's jobs, in order.
        """
        return [cls(**fields) for fields in json.loads(text)]


def run_trial(
    config: dict[str, Any], *, search: Search, directory: str, threads: int, device: str, channel: HeartbeatChannel
) -> None:
    """Run one trial; Tune calls this function in an actor.

    Args:
        config: values drawn by the searcher, by field of the spec.
        search: the search.
        directory: results directory.
        threads: number of CPU threads of torch.
        device: torch device, or "auto".
        channel: channel for heartbeats.

    Raises:
        RunError: if a job fails, after the reason was reported to the driver.
    """
    reporter = _Reporter(search)
    try:
        if directory not in _WORKERS:
            _WORKERS[directory] = _set_up_worker(search, directory, threads, device)
        worker = _WORKERS[directory]
        _send_heartbeats(channel, worker)
        _run_jobs(config, search, worker, Store.open(directory), reporter)
    except BaseException as error:  # a study's own code may also raise KeyboardInterrupt or SystemExit
        if reporter.is_over:
            raise
        reason = sentence_of(error)
        reporter.report_failure(reason)
        raise RunError(reason) from None


def _send_heartbeats(channel: HeartbeatChannel, worker: Worker) -> None:
    """Send the worker's heartbeats under the key of this trial from now on."""
    key = channel.key(tune.get_context().get_trial_id())
    if channel.run not in _SENDERS:
        _SENDERS[channel.run] = HeartbeatSender(channel, key, worker.heartbeat)
    _SENDERS[channel.run].key = key


def _run_jobs(config: dict[str, Any], search: Search, worker: Worker, store: Store, reporter: _Reporter) -> None:
    artifacts: dict[str, Artifact] = {}
    for id, spec in search.job(config).items():
        if store.is_committed(id):
            tables = _committed_rows(store, id)
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


class _Reporter:
    """Reports of one trial to Tune."""

    def __init__(self, search: Search) -> None:
        self._metrics: dict[str, Any] = {
            PERCENT: 0.0,
            IS_GIVEN_UP: True,
            **dict.fromkeys(search.objectives, float("nan")),
        }
        self._objectives = search.objectives
        self._results: list[JobResult] = []
        self.is_over = self._is_not_finite = False

    def report_point(self, job: Job, tables: Tables) -> None:
        """Report a saved point. The last one is reported later, together with the evaluation of the path's end."""
        self.update(tables)
        # A scheduler that saw the last point without the evaluation could stop the trial before it.
        if tables["points"][-1]["step"] < (job.last_step or 0):
            self._report([*self._results, JobResult(job.id, kind_of(job.spec), job.attempt, tables)])

    def replay(self, tables: Tables, num_steps: int) -> None:
        """Report the points of a path that is already committed, which Tune's scheduler has not seen in this trial."""
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
        self._report(self._results)

    def report_failure(self, reason: str) -> None:
        tune.report({**self._metrics, ROWS: "[]", ERROR: reason})

    def _report(self, results: list[JobResult]) -> None:
        try:
            tune.report({**self._metrics, ROWS: json.dumps([vars(result) for result in results])})
        except SystemExit:  # raised by Tune to end a trial that its scheduler has stopped
            self.is_over = True
            raise


def _set_up_worker(search: Search, directory: str, threads: int, device: str) -> Worker:
    context = ray.get_runtime_context()
    return Worker(
        Payload.of(search.study),
        directory,
        threads=threads,
        device=assigned_device(device),
        node_id=context.get_node_id(),
        worker_id=context.get_actor_id(),
    )


def _committed_rows(store: Store, id: str) -> Tables:
    """Rows of a committed job, of the tables that a trial uses."""
    keys = {"paths": "path_id", "points": "path_id", "robustness": "robustness_id", "per_example": "per_example_id"}
    keys |= {"point_measures": "path_id"}
    found = {
        table: [row for row in store.read_table(table).to_pylist() if row[key] == id] for table, key in keys.items()
    }
    return {table: rows for table, rows in found.items() if rows}
