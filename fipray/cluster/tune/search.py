"""Searches, run as trials of Ray Tune.

Tune decides which values to try and which trials to stop early; the driver commits the results of trials to the results
directory, like those of a study. Tune's own state is kept in `.tune` there, and an interrupted search resumes from it:
finished trials are not repeated, and interrupted paths resume from their last checkpoints. That state contains pickles,
which Tune loads again: resume a search only in directories that you trust.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import ray
from pyarrow.fs import LocalFileSystem
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import BasicVariantGenerator, Searcher

from fipray.cluster import connection, pickling
from fipray.cluster.heartbeats import progress_channel
from fipray.cluster.monitor import ClusterMonitor
from fipray.cluster.resources import WorkerResources
from fipray.cluster.runner import RayRunner
from fipray.cluster.stalls import StallDetector
from fipray.cluster.tune.reports import MAX_WAIT_SECONDS, TrialReports
from fipray.cluster.tune.trial import run_trial
from fipray.errors import ClusterLostError, UsageError
from fipray.execution.changed import Changed, opened
from fipray.execution.listeners import Listener, Silent
from fipray.execution.queue import payload_of
from fipray.execution.searching.records import FinishedTrial, TrialRecords
from fipray.execution.searching.trials import PERCENT
from fipray.records import RENEWALS, Store
from fipray.records.layout import TUNE
from fipray.study.search import Search
from fipray.study.space import Choice, Domain, Integers, LogIntegers, LogUniform

ENVIRONMENT = {  # Tune has no arguments for these
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the results directory holds what the loggers would write
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints tables even at verbosity 0
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C must end a search as it ends a run
    "TUNE_GLOBAL_CHECKPOINT_S": "0",  # after each event: a trial that Tune forgets would be proposed again
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def search_on_ray(
    search: Search,
    directory: str | Path,
    runner: RayRunner,
    listener: Listener,
    changed: Changed,
    storage: str | None,
) -> Store:
    """Run the trials that a results directory still lacks on Ray, see `fipray.search.run`.

    Args:
        search: search to run.
        directory: results directory.
        runner: cluster and workers to use.
        listener: receives events.
        changed: "stop" or "redo".
        storage: URL of a database for Optuna; None for none.

    Returns:
        The store with all results.
    """
    search = replace(search)  # a copy hashes code anew
    _check_installed(search)
    starts_session = connection.starts_session(runner.address)
    if runner.labels:
        raise UsageError("trials of a search are placed without labels: leave them out, or use --resource NAME=AMOUNT")
    capacity = runner.preflight()
    store = opened(directory, search.manifest, (), changed)
    store.verify(weights=store.is_near)
    finished = TrialRecords(search, store, listener).finished()
    left = max(search.total - len(finished), 0)
    listener.begin(search.study.name, search.study.paths[:1] * left, len(finished))
    if len(finished) >= search.total:  # a finished search needs no cluster
        return store
    base, threads = payload_of(search.study, store).module, runner.threads_per_worker
    sent = replace(search, study=replace(search.study, module=base))
    vars(sent)["code"] = search.code  # workers may lack the source files that it is computed from
    num_workers = min(capacity.num_workers, left)
    detector = StallDetector(runner.stall_seconds) if runner.stall_seconds else None
    channel = detector.channel() if detector else progress_channel()
    if starts_session:
        listener.note("starting Ray on this machine")
    with (
        runner.session(),
        _configured(),
        ClusterMonitor(capacity.resources, channel, on_stuck=_end_process) as monitor,
    ):
        max_wait_seconds = MAX_WAIT_SECONDS if starts_session else None
        reports = TrialReports(search, store, listener, monitor, capacity.resources, detector, max_wait_seconds)
        listener.note(f"{left} trials by {num_workers} {'worker' if num_workers == 1 else 'workers'}")
        with pickling.by_value():
            trainable = tune.with_parameters(
                run_trial,
                search=sent,
                directory=store.location,
                threads=threads,
                device=runner.device,
                channel=channel,
            )
        trainable = tune.with_resources(trainable, _placement(capacity.resources, runner.placement))
        with reports.active():
            values = _Values(search, store, finished, storage)
            _tuner(values, trainable, num_workers, runner.max_attempts).fit()
    return reports.close()


def _placement(resources: WorkerResources, placement: str) -> tune.PlacementGroupFactory:
    return tune.PlacementGroupFactory([dict(resources.amounts)], strategy=placement.upper())


@dataclass(frozen=True)
class _Values:
    """Values of the trials that are left."""

    search: Search
    store: Store
    finished: Sequence[FinishedTrial]
    storage: str | None

    @property
    def name(self) -> str:
        """Name of Tune's folder. Tune's own state knows trials up to a total, so a larger one begins another."""
        manifest = self.store.manifest
        name = f"{manifest['study_id']}-{self.search.total}"
        # Tune's knowledge from before the code changed does not count.
        return f"{name}-{renewals}" if (renewals := manifest.get(RENEWALS)) else name

    def searcher(self) -> tuple[Searcher | BasicVariantGenerator, dict[str, Any], int]:
        """Searcher, Tune's space, and number of trials."""
        if self.search.searcher == "optuna":
            from fipray.cluster.tune.optuna_searcher import optuna_searcher

            study_id = self.store.manifest["study_id"]
            searcher = optuna_searcher(self.search, study_id, self.storage, self.finished)
            return searcher, {}, self.search.total - len(self.finished)
        draws = TrialRecords(self.search, self.store, Silent()).remaining()
        space = {name: _tune_domain(domain) for name, domain in self.search.space.items()}
        # Listed, not drawn by Tune: the draws are the same, and a search that continues leaves out those it has.
        return BasicVariantGenerator(points_to_evaluate=draws), space, len(draws)


def _end_process(error: ClusterLostError) -> NoReturn:
    """End this process with a message.

    Tune's loop hangs in a request to the lost control process, so no exception can reach it, and Ray would abort this
    process a minute later without a message. Everything that is finished is on disk already.
    """
    sys.stderr.write(f"fipray: {error}\n")
    sys.stderr.flush()
    if node := ray._private.worker._global_node:  # processes of a private session; of a cluster there are none
        with suppress(Exception):
            node.kill_all_processes(check_alive=False, allow_graceful=False)
    os._exit(1)


def _tuner(values: _Values, trainable: Any, num_workers: int, max_attempts: int) -> tune.Tuner:
    """Create a tuner, or restore an interrupted one. The leading dot of its folder hides it from readers of tables."""
    (folder, file_system), name = values.store.beside(TUNE), values.name
    if tune.Tuner.can_restore(f"{folder}/{name}", storage_filesystem=file_system):
        return tune.Tuner.restore(f"{folder}/{name}", trainable, restart_errored=True, storage_filesystem=file_system)
    with suppress(FileNotFoundError):
        (file_system or LocalFileSystem()).delete_dir(f"{folder}/{name}")  # interrupted before its first save
    searcher, space, num_trials = values.searcher()
    return tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=_scheduler(values.search),
            num_samples=num_trials,
            max_concurrent_trials=num_workers,
            reuse_actors=True,
            trial_dirname_creator=_trial_folder,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=folder,
            storage_filesystem=file_system,
            failure_config=tune.FailureConfig(max_failures=max_attempts - 1),
            callbacks=[TrialReports.callback()],
            verbose=0,
        ),
    )


def _tune_domain(domain: Domain) -> Any:
    """Tune's domain. A choice becomes a choice of indices, since not every searcher can hold objects as values."""
    if isinstance(domain, Choice):
        return tune.choice(list(range(len(domain.values))))
    if isinstance(domain, Integers | LogIntegers):
        return (tune.lograndint if isinstance(domain, LogIntegers) else tune.randint)(domain.low, domain.high + 1)
    return (tune.loguniform if isinstance(domain, LogUniform) else tune.uniform)(domain.low, domain.high)


def _scheduler(search: Search) -> TrialScheduler:
    if search.scheduler == "none":
        return FIFOScheduler()
    first = {"metric": search.first_objective, "mode": search.objectives[search.first_objective], "time_attr": PERCENT}
    grace = 100 * search.grace
    if search.scheduler == "median":
        return MedianStoppingRule(**first, grace_period=grace)
    return ASHAScheduler(**first, max_t=100, grace_period=grace, reduction_factor=search.reduction_factor)


def _check_installed(search: Search) -> None:
    if search.searcher != "optuna":
        return
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "searcher 'optuna' needs optuna, which is not installed: pip install 'fipray[search]'"
        ) from error


def _trial_folder(trial: Trial) -> str:
    return str(trial.trial_id)


@contextmanager
def _configured() -> Iterator[None]:
    """Set Tune's environment variables, and silence its log of failed trials; restores both at the end."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    log = logging.getLogger("ray.tune")
    level = log.level
    os.environ.update(ENVIRONMENT)
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
