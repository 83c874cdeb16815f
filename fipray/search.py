"""Searches over the settings of a path: domains, the search as data, and `run`, on Ray Tune or in this process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fipray.border import checked
from fipray.errors import UsageError
from fipray.execution.changed import Changed
from fipray.execution.listeners import Listener, Silent
from fipray.execution.runner import LocalRunner
from fipray.missing import explained
from fipray.records import Store
from fipray.study.search import Search
from fipray.study.space import Choice, Integers, LogIntegers, LogUniform, Uniform

if TYPE_CHECKING:
    from fipray.cluster import RayRunner

__all__ = ["Choice", "Integers", "LogIntegers", "LogUniform", "Search", "Uniform", "run"]


@checked
def run(
    search: Search,
    directory: str | Path,
    runner: RayRunner | LocalRunner | None = None,
    listener: Listener | None = None,
    changed: Changed = "stop",
    storage: str | None = None,
) -> Store:
    """Run the trials that a results directory still lacks, and return when all are done.

    A grid, and a random search with one seed, have the same trials on every runner. A finished search that is run again
    with a larger `num_trials` continues; no trial is repeated.

    Args:
        search: search to run.
        directory: results directory, or an address such as `s3://bucket/results` that all nodes can reach.
        runner: `LocalRunner()` for Optuna in this process, or the cluster and workers of Ray Tune; None for
            `RayRunner()`.
        listener: receives events; None for a silent run.
        changed: "stop" to refuse a directory that was made by another version of the user's own code, or "redo" to run
            the search again.
        storage: URL of a database in which Optuna keeps the trials, such as "sqlite:///search.db", for its dashboard;
            None for none. On Ray it needs `searcher="optuna"`.

    Returns:
        The store with all results.

    Raises:
        UsageError: if the cluster lacks the requested resources, if the directory belongs to another search or study,
            or if a package is not installed.
        RunError: if trials failed; the results of the others are committed, and the same call retries the failed ones.
    """
    listener = listener or Silent()
    try:
        if isinstance(runner, LocalRunner):
            from fipray.execution.searching.local import search_locally

            return search_locally(search, directory, runner, listener, changed, storage)
        if storage and search.searcher != "optuna":
            raise UsageError(f"on Ray, a storage needs searcher 'optuna', and the searcher is {search.searcher!r}")
        from fipray.cluster import RayRunner
        from fipray.cluster.tune.search import search_on_ray

        return search_on_ray(search, directory, runner or RayRunner(), listener, changed, storage)
    except ImportError as error:
        if missing := explained(error, "this search"):
            raise missing from None
        raise
