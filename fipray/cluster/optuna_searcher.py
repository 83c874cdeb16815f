"""Optuna as Tune's searcher, told of trials that were given up as such."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch

from fipray.cluster.trial import IS_GIVEN_UP


class _Told(OptunaSearch):  # type: ignore[misc]
    """Tune tells Optuna the last values of a trial that was given up as if they were those of its end, but a path that
    has hardly begun is still close to the base. Optuna has a state of its own for such a trial.
    """

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        given_up = result is not None and result.get(IS_GIVEN_UP, False)
        super().on_trial_complete(trial_id, None if given_up else result, error)


def optuna_searcher(objectives: Mapping[str, str], seed: int) -> OptunaSearch:
    """A searcher for one objective, or for the front of several."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    names, modes = list(objectives), list(objectives.values())
    one = len(names) == 1
    return _Told(metric=names[0] if one else names, mode=modes[0] if one else modes, seed=seed)
