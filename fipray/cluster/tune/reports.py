"""Reports of trials in the driver: commits, progress and failures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from fipray.cluster.capacity import describe_wait
from fipray.cluster.failure_causes import failure_cause
from fipray.cluster.heartbeats import Beat, kill_process, report_progress
from fipray.cluster.monitor import ClusterMonitor
from fipray.cluster.resources import WorkerResources
from fipray.cluster.stalls import StallDetector
from fipray.cluster.tune.trial import ERROR, ROWS
from fipray.errors import RunError
from fipray.execution.jobs import Job
from fipray.execution.listeners import Listener
from fipray.execution.queue import some_failed
from fipray.execution.searching.records import TrialRecords
from fipray.execution.searching.trials import PERCENT, JobResult
from fipray.records import Store
from fipray.study.search import Search

NOTICE_SECONDS = 20.0  # without a running trial, after which the search says what it waits for
MAX_WAIT_SECONDS = 600.0  # without a running trial in a session of this search alone, after which it ends


class TrialReports:
    """Receiver of trial reports.

    Args:
        search: the search.
        store: its results directory.
        listener: receives events.
        monitor: monitor of the cluster.
        resources: resources of each trial.
        detector: detector of stalled trials, whose processes are then killed; None for none.
        max_wait_seconds: time without a running trial after which the search ends; None for no limit, since a cluster
            may rightly be busy for hours.
        clock: monotonic clock, in seconds.
    """

    def __init__(
        self,
        search: Search,
        store: Store,
        listener: Listener,
        monitor: ClusterMonitor,
        resources: WorkerResources,
        detector: StallDetector | None = None,
        max_wait_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._search, self._store, self._listener = search, store, listener
        self._records = TrialRecords(search, store, listener)
        self._monitor, self._detector, self._snapshot = monitor, detector, monitor.snapshot
        self._resources, self._max_wait_seconds, self._clock = resources, max_wait_seconds, clock
        self._waiting_since, self._next_notice = clock(), clock() + NOTICE_SECONDS
        self._jobs_of: dict[str, list[Job]] = {}  # by trial ID, the path first
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
        """Check the cluster, report the progress of running trials, and kill stalled ones.

        Args:
            trials: all trials of the search.

        Raises:
            ClusterLostError: if Ray's control process is gone.
            RunError: if no trial has run for too long.
        """
        self._monitor.check()
        channel = self._monitor.channel
        if channel is None or self._snapshot is self._monitor.snapshot:
            return
        self._snapshot = self._monitor.snapshot
        running = {channel.key(trial.trial_id): trial for trial in trials if trial.status == Trial.RUNNING}
        self._report_wait(len(running))
        for key, trial in running.items():
            self._report_progress(trial, self._snapshot.beats.get(key))
        self._monitor.watched = tuple(running)
        if self._detector is None:
            return
        jobs = {key: trial.num_failures for key, trial in running.items() if trial.trial_id not in self._killed}
        for key, stall in self._detector.update(self._snapshot.time, self._snapshot.beats, jobs).items():
            self._killed[running[key].trial_id] = str(stall)
            kill_process(stall.beat)

    def _report_progress(self, trial: Trial, beat: Beat | None) -> None:
        if beat is None:
            return
        path, *others = self._jobs(trial)
        report_progress(beat, path, self._listener)
        for job in others:  # the evaluation of the path's end, shown on the line of the trial
            report_progress(beat, job, self._listener, about=path)

    def _report_wait(self, num_running: int) -> None:
        now = self._clock()
        if num_running:
            self._waiting_since, self._next_notice = now, now + NOTICE_SECONDS
            return
        notice = describe_wait(1, self._resources, self._snapshot.nodes)
        waited = now - self._waiting_since
        if self._max_wait_seconds is not None and waited > self._max_wait_seconds:
            raise RunError(f"no trial has begun within {waited:.0f} s: {notice}. Run the same command again to resume")
        if now >= self._next_notice:
            self._next_notice = now + 3 * NOTICE_SECONDS
            self._listener.note(f"no trial runs since {waited:.0f} s: {notice}")

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
        result = trial.last_result
        results = JobResult.of_json(result[ROWS])
        self._records.commit(str(trial.trial_id), trial.config, results, result, result.get("time_total_s", 0.0))

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

    def _jobs(self, trial: Trial) -> list[Job]:
        if trial.trial_id not in self._jobs_of:  # IDs hash everything, and they are asked for every second
            specs = self._search.job(trial.config)
            self._jobs_of[trial.trial_id] = [Job(id, spec, 0, {}) for id, spec in specs.items()]
        return self._jobs_of[trial.trial_id]

    def _path_job(self, trial: Trial) -> Job:
        return self._jobs(trial)[0]

    def _label(self, trial: Trial) -> str:
        return self._records.label(str(trial.trial_id), trial.config)


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
