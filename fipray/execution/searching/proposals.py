"""Values of trials as an Optuna study, and the rule that stops trials early."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from fipray.errors import UsageError
from fipray.execution.searching.records import FinishedTrial
from fipray.study.draws import Drawn
from fipray.study.search import Search
from fipray.study.space import Choice, Domain, Integers, LogIntegers, LogUniform

PATH_ID = "path_id"  # user attribute of a trial
MOST_REPEATS = 100  # proposals in a row that were tried before, after which a search has no new ones
_MIN_SAMPLES = 3  # trials before the median rule stops any, as in Ray Tune
_DIRECTIONS = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}


def distributions(space: Mapping[str, Domain]) -> dict[str, BaseDistribution]:
    """Optuna's distributions of a space.

    Args:
        space: domains by dotted name.

    Returns:
        Distributions by dotted name.
    """
    return {name: _distribution(domain) for name, domain in space.items()}


def _distribution(domain: Domain) -> BaseDistribution:
    if isinstance(domain, Choice):
        return CategoricalDistribution(labels(domain))
    if isinstance(domain, Integers | LogIntegers):
        return IntDistribution(domain.low, domain.high, log=isinstance(domain, LogIntegers))
    return FloatDistribution(domain.low, domain.high, log=isinstance(domain, LogUniform))


def labels(choice: Choice) -> list[Any]:
    """Names of the values of a choice: Optuna and its dashboard know plain values alone.

    Args:
        choice: the choice.

    Returns:
        The values where they are plain, their texts where those differ, or else their indices.
    """
    plain = [value if isinstance(value, bool | int | float | str) else repr(value)[:500] for value in choice.values]
    return plain if len(set(plain)) == len(plain) else list(range(len(plain)))


def drawn_from(parameters: Mapping[str, Any], space: Mapping[str, Domain]) -> Drawn:
    """Convert Optuna's parameters to draws.

    Args:
        parameters: parameters of a trial.
        space: domains by dotted name.

    Returns:
        Draws by dotted name.
    """
    return {
        name: labels(domain).index(parameters[name]) if isinstance(domain, Choice) else parameters[name]
        for name, domain in space.items()
    }


def parameters_of(drawn: Mapping[str, Any], space: Mapping[str, Domain]) -> dict[str, Any]:
    """Convert draws to Optuna's parameters.

    Args:
        drawn: draws by dotted name.
        space: domains by dotted name.

    Returns:
        Parameters by dotted name.
    """
    return {
        name: labels(domain)[drawn[name]] if isinstance(domain, Choice) else drawn[name]
        for name, domain in space.items()
    }


def storage_of(url: str) -> BaseStorage:
    """Open a database of Optuna.

    Args:
        url: such as "sqlite:///search.db".

    Returns:
        The storage.

    Raises:
        UsageError: for a URL that cannot be opened.
    """
    try:
        return optuna.storages.RDBStorage(url)
    except Exception as error:  # SQLAlchemy's, of a driver, or Optuna's own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"Optuna cannot use the storage {url!r} ({reason}): give one such as sqlite:///search.db"
        ) from (
            None  # a cause would show the URL, which may hold a password
        )


def opened_study(
    search: Search, study_id: str, storage: BaseStorage | None, finished: Sequence[FinishedTrial]
) -> optuna.Study:
    """Open the Optuna study of a search, or create it, and add finished trials that it lacks.

    Args:
        search: the search.
        study_id: ID of the search.
        storage: database; None for the memory.
        finished: committed trials.

    Returns:
        The study. Trials that were running when an earlier process ended are failed in it.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=storage,
        study_name=f"{search.study.name}-{study_id}",
        directions=[_DIRECTIONS[mode] for mode in search.objectives.values()],
        load_if_exists=True,
    )
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
    known = {
        trial.user_attrs.get(PATH_ID) for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    }
    study.add_trials([frozen(search, trial) for trial in finished if trial.path_id not in known])
    # A search that continues with the same seed would propose the first trials again.
    study.sampler = optuna.samplers.TPESampler(seed=search.seed + len(study.get_trials(deepcopy=False)))
    return study


def frozen(search: Search, finished: FinishedTrial) -> optuna.trial.FrozenTrial:
    """Finished trial as Optuna keeps it.

    Args:
        search: the search.
        finished: the trial.

    Returns:
        The trial: without values if it was stopped early, since a path that has hardly begun is still close to the base
        network and so looks excellent.
    """
    return optuna.trial.create_trial(
        state=TrialState.PRUNED if finished.is_given_up else TrialState.COMPLETE,
        values=None if finished.is_given_up else values_of(search, finished.metrics),
        params=parameters_of(finished.drawn, search.space),
        distributions=distributions(search.space),
        user_attrs={PATH_ID: finished.path_id},
        intermediate_values=_finite(finished.points),
    )


def values_of(search: Search, metrics: Mapping[str, Any]) -> list[float]:
    """Values of the objectives of a trial.

    Args:
        search: the search.
        metrics: metrics of the trial.

    Returns:
        Values in the order of the search's objectives; infinite for the worst.
    """
    worst = {"min": math.inf, "max": -math.inf}
    return [
        worst[mode] if math.isnan(float(metrics[name])) else float(metrics[name])
        for name, mode in search.objectives.items()
    ]


class Proposals:
    """Trials to run, one after the other.

    Args:
        search: the search.
        study: its Optuna study.
        draws: draws of a random or grid search that are not finished yet; None to let Optuna propose values.
        is_known: tells whether the results of some draws are there already.
    """

    def __init__(
        self,
        search: Search,
        study: optuna.Study,
        draws: Sequence[Drawn] | None,
        is_known: Callable[[Drawn], bool],
    ) -> None:
        self._search, self._study, self._is_known = search, study, is_known
        self._distributions = distributions(search.space)
        self._proposes = draws is None
        self._queue = deque(unfinished(search, study) if draws is None else draws)

    def next(self) -> tuple[optuna.Trial, Drawn] | None:
        """Begin the next trial.

        Returns:
            The trial, and its draws; None where there are no new values.
        """
        for _ in range(MOST_REPEATS):
            if self._queue:
                self._study.enqueue_trial(parameters_of(self._queue.popleft(), self._search.space))
            elif not self._proposes:
                return None
            trial = self._study.ask(self._distributions)
            drawn = drawn_from(trial.params, self._search.space)
            if not self._is_known(drawn):
                return trial, drawn
            self._study.tell(trial, state=TrialState.FAIL)  # its equal is in the study already, with its values
        return None


def unfinished(search: Search, study: optuna.Study) -> list[Drawn]:
    """Draws of trials that were interrupted or failed, each once.

    Args:
        search: the search.
        study: its Optuna study.

    Returns:
        Draws by dotted name.
    """
    failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    found = {
        tuple(trial.params.values()): trial.params for trial in failed if trial.params.keys() == search.space.keys()
    }
    return [drawn_from(parameters, search.space) for parameters in found.values()]


class Stopping:
    """Rule that stops trials early, by the first objective at saved points, as an Optuna study in memory.

    Args:
        search: the search, with its scheduler.
        finished: committed trials, which are compared with.

    Raises:
        UsageError: for ASHA with a reduction factor that is no whole number.
    """

    def __init__(self, search: Search, finished: Sequence[FinishedTrial]) -> None:
        direction = _DIRECTIONS[search.objectives[search.first_objective]]
        self._study = optuna.create_study(direction=direction, pruner=pruner_of(search))
        for trial in finished:
            self.begin()
            for percent, value in trial.points.items():
                self.should_stop(percent, value)  # its answer was given then: this enters the trial into the rungs
            self.end(float(trial.metrics[search.first_objective]), is_stopped=trial.is_given_up)

    def begin(self) -> None:
        """Begin another trial."""
        self._trial = self._study.ask()

    def should_stop(self, percent: float, value: float) -> bool:
        """Report a saved point.

        Args:
            percent: percent of the path's steps.
            value: the first objective.

        Returns:
            True if the trial should be stopped.
        """
        self._trial.report(value, round(percent))
        return self._trial.should_prune()

    def end(self, value: float, *, is_stopped: bool) -> None:
        """End the trial.

        Args:
            value: the first objective at its end.
            is_stopped: whether it was stopped early.
        """
        if is_stopped or math.isnan(value):
            self._study.tell(self._trial, state=TrialState.PRUNED)
        else:
            self._study.tell(self._trial, value)


def pruner_of(search: Search) -> optuna.pruners.BasePruner:
    """Optuna's rule for the scheduler of a search, with percent of the path as steps.

    Args:
        search: the search.

    Returns:
        The pruner.

    Raises:
        UsageError: for ASHA with a reduction factor that is no whole number.
    """
    first = max(1, round(100 * search.grace))
    if search.scheduler == "asha":
        if search.reduction_factor != round(search.reduction_factor):
            raise UsageError(
                f"in this process, ASHA needs a whole number as reduction_factor, got {search.reduction_factor:g}"
            )
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=first, reduction_factor=round(search.reduction_factor)
        )
    if search.scheduler == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=_MIN_SAMPLES, n_warmup_steps=first)
    return optuna.pruners.NopPruner()


def _finite(points: Mapping[int, float]) -> dict[int, float]:
    return {step: float(value) for step, value in points.items() if not math.isnan(value)}
