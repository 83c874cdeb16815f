"""Reports of trials in the driver: commits, progress and failures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from fipray.cluster.failure_causes import failure_cause
from fipray.cluster.heartbeats import kill_process
from fipray.cluster.monitor import ClusterMonitor
from fipray.cluster.stalls import StallDetector
from fipray.cluster.tune.trial import ERROR, IS_GIVEN_UP, PERCENT, ROWS, JobResult
from fipray.execution import checkpoints
from fipray.execution.jobs import Job
from fipray.execution.kinds.path import summarize
from fipray.execution.listeners import Listener
from fipray.execution.queue import some_failed
from fipray.records import Store
from fipray.study.search import Search


class TrialReports:
    """Receiver of trial reports. The only writer of a search's tables and commit records.

    Args:
        search: the search.
        store: its results directory.
        listener: receives events.
        monitor: monitor of the cluster.
        detector: detector of stalled trials, whose processes are then killed; None for none.
    """

    def __init__(
        self,
        search: Search,
        store: Store,
        listener: Listener,
        monitor: ClusterMonitor,
        detector: StallDetector | None = None,
    ) -> None:
        self._search, self._store, self._listener = search, store, listener
        self._monitor, self._detector, self._snapshot = monitor, detector, monitor.snapshot
        self._killed: dict[str, str] = {}  # reason for killing a trial's process, by trial ID
        self._failed: dict[str, str] = {}  # reasons, by label

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make callbacks pass their events to this object inside this context."""
        token = _ACTIVE.set(self)
        try:
            yield
        finally:
            _ACTIVE.reset(token)

    @staticmethod
    def callback() -> tune.Callback:
        """Create a callback for Tune that passes its events to the active object."""
        return _TuneCallback()

    def check(self, trials: Sequence[Trial]) -> None:
        """Check the cluster, and kill stalled trials.

        Args:
            trials: all trials of the search.

        Raises:
            ClusterLostError: if Ray's control process is gone.
        """
        self._monitor.check()
        channel = self._monitor.channel
        if self._detector is None or channel is None or self._snapshot is self._monitor.snapshot:
            return
        self._snapshot = self._monitor.snapshot
        running = {channel.key(trial.trial_id): trial for trial in trials if trial.status == Trial.RUNNING}
        jobs = {key: trial.num_failures for key, trial in running.items() if trial.trial_id not in self._killed}
        for key, stall in self._detector.update(self._snapshot.time, self._snapshot.beats, jobs).items():
            self._killed[running[key].trial_id] = str(stall)
            kill_process(stall.beat)
        self._monitor.watched = tuple(running)

    def started(self, trial: Trial) -> None:
        """Announce a trial.

        Args:
            trial: the trial.
        """
        self._listener.started(self._path_job(trial), f"trial {trial.trial_id}")

    def reported(self, trial: Trial, result: dict[str, Any]) -> None:
        """Take a report of a running trial.

        Args:
            trial: the trial.
            result: metrics of the report.
        """
        if ERROR in result:
            self._failed[self._label(trial)] = result[ERROR]
            trial.max_failures = 0  # the study's code would fail again; retries are for lost workers
            return
        job = self._path_job(trial)
        self._listener.progressed(job, round(result[PERCENT] / 100 * (job.last_step or 0)))

    def ended(self, trial: Trial) -> None:
        """Commit the results of a trial that reached its end or was stopped early.

        Args:
            trial: the trial.
        """
        job, result, seconds = self._path_job(trial), trial.last_result, trial.last_result.get("time_total_s", 0.0)
        sentence = "these values were tried before; their results are reused"
        # The path comes last, in one commit with the trial's row: once that row exists, nothing is missing.
        for finished in reversed(JobResult.of_json(result[ROWS])):
            tables = finished.tables
            if rows := tables.get("paths"):
                tables = {**tables, "trials": [self._trial_row(trial, rows[0])]}
            if self._store.commit(finished.id, finished.kind, finished.attempt, tables) and rows:
                sentence = summarize(tables)
            checkpoints.remove(self._store, finished.id)
        if not result[IS_GIVEN_UP] and len(self._search.objectives) > 1:
            sentence += "; " + ", ".join(f"{name} {result[name]:.4g}" for name in self._search.objectives)
        self._listener.finished(job, f"{self._values(trial)}: {sentence}", seconds)

    def failed(self, trial: Trial) -> None:
        """Record a trial that failed for good.

        Args:
            trial: the trial.
        """
        reason = self._failed.setdefault(
            self._label(trial), f"its worker was lost repeatedly; last cause: {self._loss_cause(trial)}"
        )
        self._listener.failed(self._path_job(trial), reason)

    def lost(self, trial: Trial) -> None:
        """Announce that a trial is retried after its worker was lost.

        Args:
            trial: the trial.
        """
        cause = self._loss_cause(trial)
        self._listener.note(f"a worker was lost while running {self._label(trial)}: {cause}. Retrying")

    def _loss_cause(self, trial: Trial) -> str:
        return self._killed.pop(trial.trial_id, "") or failure_cause(trial.get_error() or RuntimeError("cause unknown"))

    def close(self) -> Store:
        """Finish the search.

        Returns:
            The store with all results.

        Raises:
            RunError: if trials failed.
        """
        if self._failed:
            raise some_failed(self._failed, self._search.total, "trials", self._store)
        return self._store

    def _trial_row(self, trial: Trial, path: dict[str, Any]) -> dict[str, Any]:
        shared = ("study", "path_id", "name", "num_steps", "outcome_kind", "attempt")
        config = self._search.config_json(trial.config)
        return {**{name: path[name] for name in shared}, "trial_id": str(trial.trial_id), "config_json": config}

    def _path_job(self, trial: Trial) -> Job:
        id, spec = next(iter(self._search.job(trial.config).items()))
        return Job(id, spec, 0, {})

    def _label(self, trial: Trial) -> str:
        return f"trial {trial.trial_id} ({self._values(trial)})"

    def _values(self, trial: Trial) -> str:
        values = self._search.values(trial.config).items()
        return ", ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in values
        )


_ACTIVE: ContextVar[TrialReports] = ContextVar("reports of the search that is running")


class _TuneCallback(tune.Callback):  # type: ignore[misc]
    """Passes Tune's events to the active `TrialReports`.

    Tune pickles its callbacks and restores them without arguments, so this one finds its target in a context variable.
    """

    def on_step_begin(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        _ACTIVE.get().check(trials)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        _ACTIVE.get().started(trial)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        _ACTIVE.get().reported(trial, result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        _ACTIVE.get().ended(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        _ACTIVE.get().failed(trial)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        _ACTIVE.get().lost(trial)
