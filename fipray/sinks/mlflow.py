"""MLflow sink: one MLflow run for each path."""

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

# Limits of MLflow's `log_batch`: 1,000 metrics, 100 parameters, 6,000 characters a value.
_BATCH = 500
_MOST_PARAMETERS = 100
_LONGEST_PARAMETER = 6000
_PATH_ID = "fipray.path_id"


class MLflowSink:
    """Sink that makes an MLflow run for each path, in the experiment that is named after the study.

    Fields of the path's spec are parameters, measures are metrics by step. A path that has a finished run is skipped.

    Args:
        uri: a tracking server or store, such as sqlite:///mlflow.db, which also needs sqlalchemy and alembic.

    Raises:
        UsageError: where MLflow is not installed or cannot use the URI.
    """

    name: Final = "MLflow"

    def __init__(self, uri: str) -> None:
        if not uri.strip():
            raise UsageError(f"MLflow cannot use {uri!r}: give a URI such as sqlite:///mlflow.db")
        try:
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise UsageError(f"MLflow is not installed ({error}): pip install 'fipray[mlflow]'") from error
        try:
            self._client: Any = MlflowClient(uri)
            self._client.search_experiments(max_results=1)
        except Exception as error:  # MLflow's own, SQLAlchemy's, or the network's
            # Without a cause: its traceback would show the URI, which may hold a password.
            raise UsageError(f"MLflow cannot use {uri!r}: {error}") from None
        self._written: set[str] = set()

    def write(self, tables: Tables) -> None:
        for path, points in paths_in(tables):
            if path["path_id"] not in self._written and not self._has_finished_run(path):
                self._write(path, points)
            self._written.add(path["path_id"])

    def _experiment(self, study: str) -> str:
        found = self._client.get_experiment_by_name(study)
        return found.experiment_id if found else self._client.create_experiment(study)

    def _has_finished_run(self, path: Row) -> bool:
        """Look for a finished run of a path, and delete runs that were cut off, so that they are written again."""
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

        # In MLflow's milliseconds. The path is known only when it has ended, so its beginning is computed back.
        began = int((time.time() - path["walk_seconds"]) * 1000)
        tags = {_PATH_ID: path["path_id"], "fipray.outcome": printable(path["outcome"])}
        run = self._client.create_run(self._experiment(path["study"]), began, tags, path["name"]).info.run_id
        fields = dict(_flat(plain_json(path["spec_json"])))
        parameters = [Param(key, printable(value)[:_LONGEST_PARAMETER]) for key, value in fields.items()]
        metrics = [
            Metric(name, value, began + int(point["seconds"] * 1000), point["step"])
            for point in points
            for name, value in scalars(point).items()
        ]
        # The run is marked finished last: without that mark it counts as cut off, and is written again.
        self._client.log_batch(run, params=parameters[:_MOST_PARAMETERS])
        for first in range(0, len(metrics), _BATCH):
            self._client.log_batch(run, metrics=metrics[first : first + _BATCH])
        self._client.set_terminated(run)


def _flat(data: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and texts of nested data; items of lists are numbered from 0."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else None
    if items is None:
        yield prefix, str(data)
    else:
        for key, value in items:
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
