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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import ray
from pyarrow.fs import LocalFileSystem
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import BasicVariantGenerator, Searcher

from fipray.border import checked
from fipray.cluster import pickling
from fipray.cluster.monitor import ClusterMonitor
from fipray.cluster.runner import RayRunner
from fipray.cluster.stalls import StallDetector
from fipray.cluster.tune.reports import TrialReports
from fipray.cluster.tune.trial import PERCENT, run_trial
from fipray.errors import ClusterLostError, UsageError
from fipray.execution.changed import Changed, opened
from fipray.execution.listeners import Listener, Silent
from fipray.execution.queue import payload_of
from fipray.records import RENEWALS, Store
from fipray.records.layout import TUNE
from fipray.study.search import Search
from fipray.study.space import Choice, Domain, Integers, LogUniform

ENVIRONMENT = {  # Tune has no arguments for these
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the results directory holds what the loggers would write
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints tables even at verbosity 0
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C must end a search as it ends a run
    "TUNE_GLOBAL_CHECKPOINT_S": "0",  # after each event: a trial that Tune forgets would be proposed again
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@checked
def search(
    search: Search,
    directory: str | Path,
    runner: RayRunner | None = None,
    listener: Listener | None = None,
    changed: Changed = "stop",
) -> Store:
    """Run the trials that a results directory still lacks, and return when all are done.

    Args:
        search: search to run.
        directory: results directory, or an address such as `s3://bucket/results` that all nodes can reach.
        runner: cluster and workers to use; None for `RayRunner()`. Its `placement` is ignored.
        listener: receives events; None for a silent run.
        changed: "stop" to refuse a directory that was made by another version of the user's own code, or "redo" to run
            the search again.

    Returns:
        The store with all results.

    Raises:
        UsageError: if the cluster lacks the requested resources, if the directory belongs to another search or study,
            or if the searcher's package is not installed.
        RunError: if trials failed; the results of the others are committed, and the same call retries the failed ones.
    """
    runner, listener, search = runner or RayRunner(), listener or Silent(), replace(search)  # a copy hashes code anew
    _check_installed(search)
    capacity = runner.preflight()
    store = opened(directory, search.manifest, (), changed)
    store.verify(weights=store.is_near)
    num_done = store.read_table("trials").num_rows
    listener.begin(search.study.name, search.total, num_done)
    if num_done == search.total:  # a finished search needs no cluster
        return store
    base, threads = payload_of(search.study, store).module, runner.threads_per_worker
    sent = replace(search, study=replace(search.study, module=base))
    vars(sent)["code"] = search.code  # workers may lack the source files that it is computed from
    num_workers = min(capacity.num_workers, search.total)
    detector = StallDetector(runner.stall_seconds) if runner.stall_seconds else None
    channel = detector.channel() if detector else None
    with (
        runner.session(),
        _configured(),
        ClusterMonitor(capacity.resources, channel, on_stuck=_end_process) as monitor,
    ):
        reports = TrialReports(search, store, listener, monitor, detector)
        listener.note(f"{search.total} trials by {num_workers} {'worker' if num_workers == 1 else 'workers'}")
        with pickling.by_value():
            trainable = tune.with_parameters(
                run_trial, search=sent, directory=store.location, threads=threads, channel=channel
            )
        names = {"CPU": "cpu", "GPU": "gpu"}  # Tune's names
        amounts = {names.get(name, name): amount for name, amount in capacity.resources.amounts.items()}
        trainable = tune.with_resources(trainable, amounts)
        with reports.active():
            _tuner(search, store, trainable, num_workers, runner.max_attempts).fit()
    return reports.close()


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


def _tuner(search: Search, store: Store, trainable: Any, num_workers: int, max_attempts: int) -> tune.Tuner:
    """Create a tuner, or restore an interrupted one. The leading dot of its folder hides it from readers of tables."""
    (folder, file_system), name = store.beside(TUNE), store.manifest["study_id"]
    if num_renewals := store.manifest.get(RENEWALS):
        name = f"{name}-{num_renewals}"  # Tune's knowledge from before the code changed does not count
    if tune.Tuner.can_restore(f"{folder}/{name}", storage_filesystem=file_system):
        return tune.Tuner.restore(f"{folder}/{name}", trainable, restart_errored=True, storage_filesystem=file_system)
    with suppress(FileNotFoundError):
        (file_system or LocalFileSystem()).delete_dir(f"{folder}/{name}")  # interrupted before its first save
    return tune.Tuner(
        trainable,
        param_space={field: _tune_domain(domain, search.searcher) for field, domain in search.space.items()},
        tune_config=tune.TuneConfig(
            search_alg=_searcher(search),
            scheduler=_scheduler(search),
            num_samples=1 if search.searcher == "grid" else search.total,
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


def _tune_domain(domain: Domain, searcher: str) -> Any:
    """Tune's domain. A choice becomes a choice of indices, since not every searcher can hold objects as values."""
    if isinstance(domain, Choice):
        indices = list(range(len(domain.values)))
        return tune.grid_search(indices) if searcher == "grid" else tune.choice(indices)
    if isinstance(domain, Integers):
        return tune.randint(domain.low, domain.high + 1)
    return (tune.loguniform if isinstance(domain, LogUniform) else tune.uniform)(domain.low, domain.high)


def _searcher(search: Search) -> Searcher | BasicVariantGenerator:
    if search.searcher != "optuna":
        return BasicVariantGenerator(random_state=search.seed)
    from fipray.cluster.tune.optuna_searcher import optuna_searcher

    return optuna_searcher(search.objectives, search.seed)


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
        raise UsageError("searcher 'optuna' needs the package optuna: install fipray[search]") from error


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
