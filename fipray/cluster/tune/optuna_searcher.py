"""Optuna as Tune's searcher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch

from fipray.cluster.tune.trial import IS_GIVEN_UP


class _PruningAwareOptuna(OptunaSearch):  # type: ignore[misc]
    """Optuna's searcher, without objective values for trials that the scheduler stopped early.

    Tune would pass the last values of such a trial to Optuna as its result, but a path that has hardly begun is still
    close to the base network and so looks excellent. Without a result Optuna records the trial as pruned.
    """

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        is_given_up = result is not None and result.get(IS_GIVEN_UP, False)
        super().on_trial_complete(trial_id, None if is_given_up else result, error)


def optuna_searcher(objectives: Mapping[str, str], seed: int) -> OptunaSearch:
    """Create a searcher for one objective, or for the Pareto front of several.

    Args:
        objectives: "min" or "max" by metric name.
        seed: seed of Optuna's sampler.

    Returns:
        The searcher.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    names, modes = list(objectives), list(objectives.values())
    is_single = len(names) == 1
    metric, mode = (names[0], modes[0]) if is_single else (names, modes)
    return _PruningAwareOptuna(metric=metric, mode=mode, seed=seed)
