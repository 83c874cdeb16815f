"""Search in this process, with Optuna: without Ray, one trial after the other."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from fipray.execution.changed import Changed, opened
from fipray.execution.failures import interruptions, sentence_of
from fipray.execution.listeners import Listener
from fipray.execution.queue import payload_of, some_failed
from fipray.execution.runner import JobReports, LocalRunner, settings_kept
from fipray.execution.searching.proposals import (
    PATH_ID,
    Proposals,
    Stopping,
    opened_study,
    pruner_of,
    storage_of,
    values_of,
)
from fipray.execution.searching.records import FinishedTrial, TrialRecords
from fipray.execution.searching.trials import IS_GIVEN_UP, PERCENT, JobResult, TrialReporter, run_jobs
from fipray.execution.worker import Worker
from fipray.records import Store
from fipray.records.layout import OPTUNA
from fipray.study.draws import Drawn
from fipray.study.search import Search


class _Stopped(BaseException):
    """Ends a trial that the scheduler stops; no Exception, which a study's own code may catch."""


def search_locally(
    search: Search,
    directory: str | Path,
    runner: LocalRunner,
    listener: Listener,
    changed: Changed,
    storage: str | None,
) -> Store:
    """Run the trials that a results directory still lacks, in this process.

    Args:
        search: search to run.
        directory: results directory.
        runner: threads and device.
        listener: receives events.
        changed: "stop" or "redo", see `fipray.search.run`.
        storage: URL of a database for Optuna; None for a file in the results directory.

    Returns:
        The store with all results.

    Raises:
        RunError: if trials failed.
        UsageError: for a storage that cannot be opened, or a directory of another search.
    """
    pruner_of(search)  # what it refuses is refused before the directory is made
    database = storage_of(storage) if storage else None
    store = opened(directory, search.manifest, (), changed)
    store.verify(weights=store.is_near)
    finished = TrialRecords(search, store, listener).finished()
    left = max(search.total - len(finished), 0)
    listener.begin(search.study.name, search.study.paths[:1] * left, len(finished))
    if len(finished) >= search.total:
        return store
    study = opened_study(search, store.manifest["study_id"], database or _journal(store, search), finished)
    with settings_kept():
        reports = JobReports(listener)
        worker = runner.worker(payload_of(search.study, store), directory, reports.heartbeat)
        failed = _LocalSearch(search, store, listener, reports, worker, study, finished).run()
    if failed:
        raise some_failed(failed, search.total, "trials", store)
    return store


def _journal(store: Store, search: Search) -> BaseStorage | None:
    """Storage in the results directory, which keeps the values of an interrupted trial; None in an object store."""
    (folder, file_system) = store.beside(OPTUNA)
    if file_system is not None or search.searcher != "optuna":
        return None
    Path(folder).mkdir(exist_ok=True)
    return JournalStorage(JournalFileBackend(f"{folder}/journal.log"))


class _LocalSearch:
    """Loop of a search in this process."""

    def __init__(
        self,
        search: Search,
        store: Store,
        listener: Listener,
        reports: JobReports,
        worker: Worker,
        study: optuna.Study,
        finished: Sequence[FinishedTrial],
    ) -> None:
        self._search, self._store, self._listener, self._worker = search, store, listener, worker
        self._reports, self._study = reports, study
        self._records = TrialRecords(search, store, listener)
        self._stopping = Stopping(search, finished)
        self._num_left = search.total - len(finished)
        draws = None if search.searcher == "optuna" else self._records.remaining()
        self._tried: set[str] = set()
        self._proposals = Proposals(search, study, draws, self._is_known)

    def _is_known(self, drawn: Drawn) -> bool:
        id = self._records.job(drawn).id
        return id in self._tried or self._store.is_committed(id)

    def run(self) -> dict[str, str]:
        """Run the trials. Returns the reasons of those that failed, by label."""
        failed: dict[str, str] = {}
        with interruptions() as is_interrupted:
            for _ in range(self._num_left):
                proposed = self._proposals.next()
                if proposed is None:
                    self._listener.note("there are no values left that were not tried")
                    break
                trial, drawn = proposed
                trial_id, job = f"{trial.number:05d}", self._records.job(drawn)
                self._tried.add(job.id)
                self._reports.job = job
                self._listener.started(job, f"trial {trial_id}")
                try:
                    self._run(trial, trial_id, drawn)
                except BaseException as error:  # a study's own code may also raise KeyboardInterrupt or SystemExit
                    # Still running in the study: the next call resumes the trial.
                    if is_interrupted():
                        raise KeyboardInterrupt from error
                    failed[self._records.label(trial_id, drawn)] = sentence_of(error)
                    self._study.tell(trial, state=TrialState.FAIL)
                    self._listener.failed(job, sentence_of(error))
                if is_interrupted():
                    raise KeyboardInterrupt
        return failed

    def _run(self, trial: optuna.Trial, trial_id: str, drawn: Drawn) -> None:
        began, last = time.perf_counter(), list[JobResult]()
        trial.set_user_attr(PATH_ID, self._records.job(drawn).id)
        self._stopping.begin()

        def report(metrics: Mapping[str, Any], results: Sequence[JobResult]) -> None:
            last[:] = results
            value = float(metrics[self._search.first_objective])
            # Not at the end, which is reported with its evaluation: nothing is left to be stopped then.
            if metrics[IS_GIVEN_UP] and self._should_stop(trial, metrics[PERCENT], value):
                raise _Stopped

        reporter = TrialReporter(self._search, report)
        with suppress(_Stopped):
            run_jobs(drawn, self._search, self._worker, self._store, reporter)
        metrics = reporter.metrics
        self._records.commit(trial_id, drawn, last, metrics, time.perf_counter() - began)
        is_stopped = bool(metrics[IS_GIVEN_UP])
        self._stopping.end(float(metrics[self._search.first_objective]), is_stopped=is_stopped)
        if is_stopped:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, values_of(self._search, metrics))

    def _should_stop(self, trial: optuna.Trial, percent: float, value: float) -> bool:
        if len(self._search.objectives) == 1:  # for Optuna's dashboard: it has no points of several objectives
            trial.report(value, round(percent))
        return self._stopping.should_stop(percent, value)
