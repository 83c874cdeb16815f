"""Carries out a search as trials of Ray Tune.

Tune decides which values are tried and who is given up; what a trial brought is committed to the results directory by
the driver, as a study's paths are. Tune's own state is in `.tune` there, and a search that was cut off goes on from it:
trials that ended are not begun again, and paths that were cut off go on from the points that they kept. That state
holds pickles, which Tune reads again: carry on only with directories that you trust.
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
from fipray.cluster import parcel
from fipray.cluster.desk import Desk, TuneCallback
from fipray.cluster.lookout import Lookout
from fipray.cluster.ray_runner import RayRunner
from fipray.cluster.stalls import Stalls
from fipray.cluster.trial import PERCENT, walk_trial
from fipray.errors import ClusterLostError, UsageError
from fipray.execution.changed import Changed, opened
from fipray.execution.listeners import Listener, Silent
from fipray.execution.queue import payload_of
from fipray.records import RENEWALS, Store
from fipray.records.layout import TUNE
from fipray.study.search import Search
from fipray.study.space import Choice, Domain, Integers, LogUniform

SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the results directory holds what the loggers would write
    "RAY_AIR_NEW_OUTPUT": "0",  # the newer one prints tables however quiet it is asked to be
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends a search as it ends a run
    "TUNE_GLOBAL_CHECKPOINT_S": "0",  # a trial that Tune forgets would be proposed again
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
    """Carries out what the results directory still lacks of a search, with the workers that `runner` says.

    changed: where the directory was made by other code of the user's own, "stop", or "redo" the search.

    Raises UsageError where the cluster lacks what is asked, where the directory is of another search or study, and
    where the searcher is not installed; RunError when trials failed: the others are there then, and the same call again
    begins the failed ones anew.
    """
    runner, listener, search = runner or RayRunner(), listener or Silent(), replace(search)  # which reads code anew
    _check_installed(search)
    capacity = runner.preflight()
    store = opened(directory, search.manifest, (), changed)
    store.verify(weights=store.is_near)
    num_done = store.read_table("trials").num_rows
    listener.begin(search.study.name, search.total, num_done)
    if num_done == search.total:
        return store
    base, threads = payload_of(search.study, store).module, runner.threads_per_worker
    there = replace(search, study=replace(search.study, module=base))
    vars(there)["code"] = search.code  # workers may lack the files
    slots = min(capacity.num_workers, search.total)
    stalls = Stalls(runner.stall_seconds) if runner.stall_seconds else None
    pulse = stalls.pulse() if stalls else None
    with runner.session(), _settings(), Lookout(capacity.share, pulse, on_stuck=_end_process) as lookout:
        desk = Desk(search, store, listener, lookout, stalls)
        listener.note(f"{search.total} trials by {slots} {'worker' if slots == 1 else 'workers'}")
        with parcel.by_value():
            walk = tune.with_parameters(
                walk_trial, search=there, directory=store.location, threads=threads, pulse=pulse
            )
        names = {"CPU": "cpu", "GPU": "gpu"}  # as Tune has them
        amounts = {names.get(name, name): amount for name, amount in capacity.share.amounts.items()}
        walk = tune.with_resources(walk, amounts)
        with desk.open():
            _tuner(search, store, walk, slots, runner.max_attempts).fit()
    return desk.close()


def _end_process(error: ClusterLostError) -> NoReturn:
    """Tune's own loop asks the control process, and hangs where it is gone, until Ray aborts this process a minute
    later. So it ends before, with a sentence. Everything that is done is on disk already.
    """
    sys.stderr.write(f"fipray: {error}\n")
    sys.stderr.flush()
    if node := ray._private.worker._global_node:  # what a session of our own has started; of a cluster, nothing
        with suppress(Exception):
            node.kill_all_processes(check_alive=False, allow_graceful=False)
    os._exit(1)


def _tuner(search: Search, store: Store, walk: Any, slots: int, max_attempts: int) -> tune.Tuner:
    """A new one, or that which was cut off. Tune's state lies beside the tables, under a name with a dot."""
    (place, files), name = store.beside(TUNE), store.manifest["study_id"]
    if count := store.manifest.get(RENEWALS):
        name = f"{name}-{count}"  # what Tune knows of before does not count
    if tune.Tuner.can_restore(f"{place}/{name}", storage_filesystem=files):
        return tune.Tuner.restore(f"{place}/{name}", walk, restart_errored=True, storage_filesystem=files)
    with suppress(FileNotFoundError):
        (files or LocalFileSystem()).delete_dir(f"{place}/{name}")  # cut off before it held anything
    return tune.Tuner(
        walk,
        param_space={field: _drawn(domain, search.searcher) for field, domain in search.space.items()},
        tune_config=tune.TuneConfig(
            search_alg=_searcher(search),
            scheduler=_scheduler(search),
            num_samples=1 if search.searcher == "grid" else search.total,
            max_concurrent_trials=slots,
            reuse_actors=True,
            trial_dirname_creator=_directory_name,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=place,
            storage_filesystem=files,
            failure_config=tune.FailureConfig(max_failures=max_attempts - 1),
            callbacks=[TuneCallback()],
            verbose=0,
        ),
    )


def _drawn(domain: Domain, searcher: str) -> Any:
    """The domain as Tune knows it; a choice by the places of its values, which any searcher can hold."""
    if isinstance(domain, Choice):
        places = list(range(len(domain.values)))
        return tune.grid_search(places) if searcher == "grid" else tune.choice(places)
    if isinstance(domain, Integers):
        return tune.randint(domain.low, domain.high + 1)
    return (tune.loguniform if isinstance(domain, LogUniform) else tune.uniform)(domain.low, domain.high)


def _searcher(search: Search) -> Searcher | BasicVariantGenerator:
    if search.searcher != "optuna":
        return BasicVariantGenerator(random_state=search.seed)
    from fipray.cluster.optuna_searcher import optuna_searcher

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


def _directory_name(trial: Trial) -> str:
    return str(trial.trial_id)


@contextmanager
def _settings() -> Iterator[None]:
    """Tune is set up through the environment, and tells of failed trials by its log; both are left as they were."""
    before = {name: os.environ.get(name) for name in SETTINGS}
    log = logging.getLogger("ray.tune")
    level = log.level
    os.environ.update(SETTINGS)
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
