"""One trial of a search, in an actor of Tune: walks its path and tells every point; writes no table.

A report holds `percent` (of the path that is walked), every objective (NaN where it is not known yet), `given_up`
(whether the path is not at its end), and `rows`: as JSON, those of what the trial has done, as they would be if it
ended there. The driver commits those of the last report, whoever ended the trial.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import ray
import torch
from ray import tune

from fipray.cluster.heart import Heart, Pulse
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
_WORKERS: dict[str, Worker] = {}  # of this process, by directory: an actor carries out many trials of one search
_HEARTS: dict[str, Heart] = {}  # by run


@dataclass(frozen=True)
class Done:
    """What one attempt at a piece of work made."""

    id: str
    kind: str
    attempt: int
    tables: Tables

    @classmethod
    def of_json(cls, text: str) -> list[Self]:
        return [cls(**each) for each in json.loads(text)]


def walk_trial(
    config: dict[str, Any], *, search: Search, directory: str, threads: int, pulse: Pulse | None = None
) -> None:
    """What Tune calls in an actor. Raises RunError where the path fails, when it has told the driver why."""
    reports = _Reports(search)
    try:
        if directory not in _WORKERS:
            _WORKERS[directory] = _worker(search, directory, threads)
        worker = _WORKERS[directory]
        if pulse:
            _speak(pulse, worker)
        _carry_out(config, search, worker, Store.open(directory), reports)
    except BaseException as error:  # KeyboardInterrupt and SystemExit of a study's own code, too
        if reports.is_over:
            raise
        reason = sentence_of(error)
        reports.fail(reason)
        raise RunError(reason) from None


def _speak(pulse: Pulse, worker: Worker) -> None:
    """Say how far this trial is from now on."""
    key = pulse.key(tune.get_context().get_trial_id())
    if pulse.run not in _HEARTS:
        _HEARTS[pulse.run] = Heart(pulse, key, worker.heartbeat)
    _HEARTS[pulse.run].key = key


def _carry_out(config: dict[str, Any], search: Search, worker: Worker, store: Store, reports: _Reports) -> None:
    artifacts: dict[str, Artifact] = {}
    for id, spec in search.job(config).items():
        if store.is_committed(id):
            tables = _rows(store, id)
            if spec.last_step is not None:
                reports.again(tables, spec.last_step)
        else:
            attempt = store.next_attempt(id)
            job = Job(id, spec, attempt, {name: artifacts[name] for name in spec.dependencies})
            tables = worker.run(job, partial(reports.point, job))
            reports.add(job, tables)
        artifacts |= artifacts_of(tables)
        reports.measure(tables)
        if tables.get("paths") and tables["paths"][0]["outcome_kind"] == GIVEN_UP:
            break  # an earlier trial with these values was given up
    reports.end()


class _Reports:
    """What is told to Tune, in order."""

    def __init__(self, search: Search) -> None:
        self._metrics: dict[str, Any] = {
            PERCENT: 0.0,
            IS_GIVEN_UP: True,
            **dict.fromkeys(search.objectives, float("nan")),
        }
        self._objectives = search.objectives
        self._done: list[Done] = []
        self.is_over = self._is_broken = False

    def point(self, job: Job, tables: Tables) -> None:
        """A point on the way. The end is told when all that belongs to it is there."""
        self.measure(tables)
        if tables["points"][-1]["step"] < (job.last_step or 0):
            self._tell([*self._done, Done(job.id, kind_of(job.spec), job.attempt, tables)])

    def again(self, tables: Tables, num_steps: int) -> None:
        """The points on the way of a path that is committed, as a scheduler has not seen them in this trial."""
        for point in tables["points"]:
            self._measure_point(tables, point, 100 * point["step"] / num_steps)
            if point["step"] < num_steps:
                self._tell(self._done)

    def measure(self, tables: Tables) -> None:
        """Take the objectives out of rows."""
        if tables.get("points"):
            row = tables["paths"][0]
            num_steps = json.loads(row["spec_json"])["num_steps"]
            self._measure_point(tables, tables["points"][-1], 100 * row["num_steps"] / num_steps)
            self._metrics[IS_GIVEN_UP] = row["outcome_kind"] == GIVEN_UP
            self._is_broken = row["outcome_kind"] == NOT_FINITE
        if tables.get("robustness") and ROBUST in self._objectives:
            self._metrics[ROBUST] = tables["robustness"][-1]["robust_accuracy"]
        if self._is_broken:  # its end may be the base, at no distance: the searcher is to look elsewhere
            self._metrics |= {name: math.inf if mode == "min" else -math.inf for name, mode in self._objectives.items()}

    def _measure_point(self, tables: Tables, point: Mapping[str, Any], percent: float) -> None:
        own = tables.get("point_measures", ())
        measured = {row["measure"]: row["value"] for row in own if row["step"] == point["step"]}
        found = {**point, **measured}
        self._metrics |= {name: found[name] for name in self._objectives if name in found}
        self._metrics[PERCENT] = percent

    def add(self, job: Job, tables: Tables) -> None:
        self._done.append(Done(job.id, kind_of(job.spec), job.attempt, tables))

    def end(self) -> None:
        self._tell(self._done)

    def fail(self, reason: str) -> None:
        tune.report({**self._metrics, ROWS: "[]", ERROR: reason})

    def _tell(self, done: list[Done]) -> None:
        try:
            tune.report({**self._metrics, ROWS: json.dumps([vars(each) for each in done])})
        except SystemExit:  # so Tune ends a trial that is given up
            self.is_over = True
            raise


def _worker(search: Search, directory: str, threads: int) -> Worker:
    study, here = search.study, ray.get_runtime_context()
    return Worker(
        Payload.of(study),
        directory,
        threads=threads,
        device="cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu",
        node_id=here.get_node_id(),
        worker_id=here.get_actor_id(),
    )


def _rows(store: Store, id: str) -> Tables:
    """The committed rows of a piece of work that a trial needs again."""
    keys = {"paths": "path_id", "points": "path_id", "robustness": "robustness_id", "per_example": "per_example_id"}
    keys |= {"point_measures": "path_id"}
    found = {
        table: [row for row in store.read_table(table).to_pylist() if row[key] == id] for table, key in keys.items()
    }
    return {table: rows for table, rows in found.items() if rows}
