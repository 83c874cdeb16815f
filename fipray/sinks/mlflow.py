"""Paths as runs of MLflow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

from fipray.errors import UsageError
from fipray.execution.jobs import Tables
from fipray.printable import printable
from fipray.records.encoding import plain_json
from fipray.records.layout import checked_name
from fipray.sinks.scalars import Row, paths_in, scalars

_BATCH = 500  # MLflow takes at most 1,000 metrics at once,
_MOST_PARAMETERS = 100  # as many parameters,
_LONGEST_PARAMETER = 6000  # of so many characters
_PATH_ID = "fipray.path_id"


class MLflowSink:
    """Makes a run for each path in the experiment of the study's name: parameters from its spec, measures by step.

    uri: of a tracking server or store, such as sqlite:///mlflow.db (which also needs sqlalchemy and alembic).
    Raises UsageError where MLflow is not installed or cannot use the URI.
    """

    name: Final = "MLflow"

    def __init__(self, uri: str) -> None:
        if not uri.strip():
            raise UsageError(f"{uri!r} is no URI of MLflow's: give one such as sqlite:///mlflow.db")
        try:
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise UsageError(f"MLflow is not installed ({error}): pip install 'fipray[mlflow]'") from error
        try:
            self._client: Any = MlflowClient(uri)
            self._client.search_experiments(max_results=1)
        except Exception as error:  # of its own, of SQLAlchemy, of the network
            raise UsageError(f"MLflow cannot use {uri!r}: {error}") from None  # which quotes a password in it
        self._written: set[str] = set()

    def write(self, tables: Tables) -> None:
        for path, points in paths_in(tables):
            if path["path_id"] not in self._written and not self._is_there(path):
                self._write(path, points)
            self._written.add(path["path_id"])

    def _experiment(self, study: str) -> str:
        found = self._client.get_experiment_by_name(study)
        return found.experiment_id if found else self._client.create_experiment(study)

    def _is_there(self, path: Row) -> bool:
        """Whether an earlier run of the study has finished this run; one that was cut off is deleted."""
        found = self._client.search_runs(
            [self._experiment(path["study"])], f"tags.`{_PATH_ID}` = '{checked_name(path['path_id'])}'"
        )
        finished = [run for run in found if run.info.status == "FINISHED"]
        for run in found:
            if run not in finished:
                self._client.delete_run(run.info.run_id)
        return bool(finished)

    def _write(self, path: Row, points: list[Row]) -> None:
        from mlflow.entities import Metric, Param

        began = int((time.time() - path["walk_seconds"]) * 1000)
        tags = {_PATH_ID: path["path_id"], "fipray.outcome": printable(path["outcome"])}
        run = self._client.create_run(self._experiment(path["study"]), began, tags, path["name"]).info.run_id
        asked = dict(_flat(plain_json(path["spec_json"])))
        parameters = [Param(key, printable(value)[:_LONGEST_PARAMETER]) for key, value in asked.items()]
        metrics = [
            Metric(name, value, began + int(point["seconds"] * 1000), point["step"])
            for point in points
            for name, value in scalars(point).items()
        ]
        self._client.log_batch(run, params=parameters[:_MOST_PARAMETERS])
        for first in range(0, len(metrics), _BATCH):
            self._client.log_batch(run, metrics=metrics[first : first + _BATCH])
        self._client.set_terminated(run)


def _flat(data: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested data as dotted names and texts; lists count from 0."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else None
    if items is None:
        yield prefix, str(data)
    else:
        for key, value in items:
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
