"""Optuna as Tune's searcher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch

from fipray.execution.searching.proposals import distributions, labels, opened_study, storage_of
from fipray.execution.searching.records import FinishedTrial
from fipray.execution.searching.trials import IS_GIVEN_UP
from fipray.study.search import Search
from fipray.study.space import Choice


class _PruningAwareOptuna(OptunaSearch):  # type: ignore[misc]
    """Optuna's searcher, which draws what our domains expect, without objective values for trials that were stopped.

    Tune would pass the last values of such a trial to Optuna as its result, but a path that has hardly begun is still
    close to the base network and so looks excellent. Without a result Optuna records the trial as pruned.
    """

    def __init__(self, search: Search, study: optuna.Study) -> None:
        names, modes = list(search.objectives), list(search.objectives.values())
        metric, mode = (names[0], modes[0]) if len(names) == 1 else (names, modes)
        super().__init__(metric=metric, mode=mode, seed=search.seed)
        self._space, self._ot_study = distributions(search.space), study
        # Tune pickles this object: names of choices instead of their values, which may be of any class.
        self._labels = {
            name: labels(domain) if isinstance(domain, Choice) else None for name, domain in search.space.items()
        }

    def suggest(self, trial_id: str) -> dict[str, Any]:
        super().suggest(trial_id)
        # Not what it returns, which is nested: a slash in a name means a dictionary to Tune.
        parameters = self._ot_trials[trial_id].params
        return {name: own.index(parameters[name]) if own else parameters[name] for name, own in self._labels.items()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        is_given_up = result is not None and result.get(IS_GIVEN_UP, False)
        super().on_trial_complete(trial_id, None if is_given_up else result, error)


def optuna_searcher(
    search: Search, study_id: str, storage: str | None, finished: Sequence[FinishedTrial]
) -> OptunaSearch:
    """Create a searcher for one objective, or for the Pareto front of several.

    Args:
        search: the search.
        study_id: ID of the search.
        storage: URL of a database; None for the memory, which Tune saves with its own state.
        finished: committed trials, which the searcher learns from.

    Returns:
        The searcher.
    """
    database = storage_of(storage) if storage else None
    return _PruningAwareOptuna(search, opened_study(search, study_id, database, finished))
