"""MLflow sink: one MLflow run for each path."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any, Final

from fipray.errors import UsageError
from fipray.execution.jobs import Tables
from fipray.printable import printable, without_credentials
from fipray.records.encoding import plain_json
from fipray.records.layout import checked_name
from fipray.sinks.scalars import (
    SUMMARY,
    EvaluatedNetwork,
    Row,
    networks_in,
    paths_in,
    scalars,
    summary_of,
    values_in,
    weights_address,
)

# Limits of MLflow's `log_batch`: 1,000 metrics, 100 parameters, 6,000 characters a value.
_BATCH = 500
_MOST_PARAMETERS = 100
_LONGEST_PARAMETER = 6000
_PATH_ID, _EVALUATION_ID, _KIND = "fipray.path_id", "fipray.robustness_id", "fipray.kind"


class MLflowSink:
    """Sink that makes an MLflow run for each path, in the experiment that is named after the study.

    Fields of the path's spec are parameters, as are the values of a trial; measures are metrics by step; the address of
    the weights is a tag. The robustness of a path's network is in the path's run, that of the base network and of
    ensembles in runs of their own. The run "summary" has the summary table as an artifact. What is there is skipped.

    Args:
        uri: a tracking server or store, such as sqlite:///mlflow.db, which also needs sqlalchemy and alembic.
        results: results directory, for the addresses of weights and the summary; None leaves these out.

    Raises:
        UsageError: where MLflow is not installed or cannot use the URI.
    """

    name: Final = "MLflow"

    def __init__(self, uri: str, results: str | None = None) -> None:
        self._results = results
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
        values = values_in(tables)
        for path, points in paths_in(tables):
            if path["path_id"] not in self._written and not self._has_finished_run(path):
                self._write(path, points, values.get(path["path_id"], {}))
            self._written.add(path["path_id"])
        for network in networks_in(tables):
            if network.id not in self._written:
                self._write_network(network)
            self._written.add(network.id)

    def finish(self) -> None:
        """Write the summary of the study as an artifact, in place of an earlier one."""
        if self._results is None:
            return
        study, table = summary_of(self._results)
        found = self._runs(study, f"tags.`{_KIND}` = '{SUMMARY}'")
        tags = {_KIND: SUMMARY, "fipray.results": without_credentials(self._results)}
        run = found[0] if found else self._client.create_run(self._experiment(study), tags=tags, run_name=SUMMARY)
        self._client.log_text(run.info.run_id, table.to_csv(index=False), "summary.csv")
        self._client.set_terminated(run.info.run_id)

    def _runs(self, study: str, condition: str) -> list[Any]:
        return list(self._client.search_runs([self._experiment(study)], condition))

    def _write_network(self, network: EvaluatedNetwork) -> None:
        """Log robustness to the run of the path, or to a run of its own for the base network and for ensembles."""
        if self._runs(network.study, f"tags.`{_EVALUATION_ID}` = '{checked_name(network.id)}'"):
            return
        name = checked_name(network.name)
        found = self._runs(network.study, f"tags.`{_KIND}` = 'path' and tags.`mlflow.runName` = '{name}'")
        tags = {_KIND: network.kind}
        run = (
            found[0] if found else self._client.create_run(self._experiment(network.study), tags=tags, run_name=name)
        ).info.run_id
        for key, value in network.figures.items():
            self._client.log_metric(run, _metric(key), value)
        for key, value in network.facts.items():
            self._client.set_tag(run, f"fipray.{key}", str(value))
        self._client.set_terminated(run)
        self._client.set_tag(run, _EVALUATION_ID, network.id)  # last: without it the network is written again

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

    def _write(self, path: Row, points: list[Row], trial: dict[str, Any]) -> None:
        from mlflow.entities import Metric, Param

        # In MLflow's milliseconds. The path is known only when it has ended, so its beginning is computed back.
        began = int((time.time() - path["walk_seconds"]) * 1000)
        tags = {_PATH_ID: path["path_id"], _KIND: "path", "fipray.outcome": printable(path["outcome"])}
        tags |= {"fipray.weights": weights_address(self._results, path), "fipray.sha256": path["weights_sha256"]}
        run = self._client.create_run(self._experiment(path["study"]), began, tags, path["name"]).info.run_id
        # The values of a trial first: they are what runs are compared by, and must not fall victim to the limit.
        fields = dict(_flat({"trial": trial} if trial else {})) | dict(_flat(plain_json(path["spec_json"])))
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


def _metric(name: str) -> str:
    """Name that MLflow allows."""
    return re.sub(r"[^\w./ -]", "_", name)


def _flat(data: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and texts of nested data; items of lists are numbered from 0."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else None
    if items is None:
        yield prefix, str(data)
    else:
        for key, value in items:
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
