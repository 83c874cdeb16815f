"""Sink for Weights & Biases: one run for each path and for each evaluated network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fipray.errors import UsageError
from fipray.execution.jobs import Tables
from fipray.missing import explained
from fipray.records.encoding import plain_json
from fipray.records.layout import checked_name
from fipray.sinks.scalars import SUMMARY, networks_in, paths_in, scalars, summary_of, values_in, weights_address

_COMPLETE = "fipray-complete"  # file in the folder of a run that was written to its end


class WandbSink:
    """Sink that makes a run for each path and for each evaluated network, grouped by the study.

    A path's spec, the values of its trial and the address of its weights are its config; measures are logged by step.
    The run "summary" has the summary table. Runs have the IDs of paths and evaluations; a run whose folder in WANDB_DIR
    is complete is skipped.

    Args:
        project: name of the project.
        results: results directory, for the addresses of weights and the summary; None leaves these out.

    Raises:
        UsageError: where wandb is not installed, for an empty name, and without an API key, unless WANDB_MODE is
            "offline" or "disabled".
    """

    name: Final = "Weights & Biases"

    def __init__(self, project: str, results: str | None = None) -> None:
        if not project.strip():
            raise UsageError("Weights & Biases needs the name of a project, got an empty one")
        try:
            import wandb
        except ImportError as error:
            raise explained(error, self.name) or error from None
        if os.environ.get("WANDB_MODE", "online") not in ("offline", "dryrun", "disabled"):
            _log_in(wandb)
        self._wandb: Any = wandb
        self._project, self._results = project, results

    def write(self, tables: Tables) -> None:
        values = values_in(tables)
        for path, points in paths_in(tables):
            config = plain_json(path["spec_json"]) | {"outcome": path["outcome"]}
            config |= {"weights": weights_address(self._results, path), "weights_sha256": path["weights_sha256"]}
            if trial := values.get(path["path_id"]):
                config["trial"] = trial
            curves = {point["step"]: scalars(point) for point in points}
            self._write(path["study"], path["path_id"], path["name"], "path", config, curves)
        for network in networks_in(tables):
            config = {"kind": network.kind, **network.facts}
            self._write(network.study, network.id, network.name, "robustness", config, {0: network.figures})

    def finish(self) -> None:
        """Write the summary of the study as a table, in a run of its own."""
        if self._results is None:
            return
        study, table = summary_of(self._results)
        with self._run(study, None, SUMMARY, SUMMARY, {"results": self._results}) as run:
            run.log({SUMMARY: self._wandb.Table(dataframe=table.astype(object).where(table.notna(), None))})

    def _write(
        self,
        study: str,
        id: str,
        name: str,
        kind: str,
        config: Mapping[str, Any],
        curves: Mapping[int, Mapping[str, float]],
    ) -> None:
        if self._is_complete(checked_name(id)):
            return
        with self._run(checked_name(study), id, checked_name(name), kind, config) as run:
            for step, measures in curves.items():
                run.log(dict(measures), step=step)
            folder = Path(run.dir).parent
        (folder / _COMPLETE).touch()

    def _run(self, study: str, id: str | None, name: str, kind: str, config: Mapping[str, Any]) -> Any:
        settings = self._wandb.Settings(silent=True, console="off", x_disable_stats=True)
        return self._wandb.init(
            project=self._project,
            group=study,
            id=id,
            name=name,
            job_type=kind,
            config=dict(config),
            resume="allow" if id else None,
            reinit="create_new",
            settings=settings,
        )

    def _is_complete(self, id: str) -> bool:
        """Look for the folder of a run, and delete those of offline runs that were cut off."""
        root = Path(os.environ.get("WANDB_DIR", ".")) / "wandb"
        folders = [*root.glob(f"run-*-{id}"), *root.glob(f"offline-run-*-{id}")]
        for folder in folders:
            if not (folder / _COMPLETE).exists() and folder.name.startswith("offline-"):
                shutil.rmtree(folder)
        return any((folder / _COMPLETE).exists() for folder in folders)


def _log_in(wandb: Any) -> None:
    """Find the API key, so that a run that takes hours does not find at its end that there is none."""
    try:
        is_done = wandb.login()  # asks for a key on a terminal, and raises elsewhere
    except wandb.errors.Error as error:
        raise UsageError(f"Weights & Biases: {error}. Run `wandb login`, or set WANDB_MODE=offline") from None
    if not is_done:
        raise UsageError("Weights & Biases has no API key: run `wandb login`, or set WANDB_MODE=offline")
