"""Search over the fields of a path's spec, as data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from fipray.border import checked
from fipray.border.kinds import Seed
from fipray.errors import UsageError
from fipray.registry import spec
from fipray.study.canonical import digest, encode, to_json
from fipray.study.code import Code, code_of
from fipray.study.draws import num_combinations
from fipray.study.evaluation import AttackSpec, RobustnessSpec
from fipray.study.foreign import domain_of
from fipray.study.space import Choice, check, with_fields
from fipray.study.specs import PathSpec
from fipray.study.study import Spec, Study

MODES = ("min", "max")
SEARCHERS = ("random", "optuna", "grid")
SCHEDULERS = ("asha", "median", "none")
AT_POINTS = (
    "functional_distance_held_out",
    "functional_distance",
    "objective_value",
    "gain",
    "sparsity",
    "clean_accuracy",
)
"""Columns of the saved points that can be objectives."""
ROBUST = "robust_accuracy"
"""Objective under the worst attack per example of the study's evaluation, known at the end of a path."""


@spec("search")
@checked
@dataclass(frozen=True, eq=False)
class Search:
    """Search for the values of a path's fields that are best by one or several objectives.

    Each trial traces the study's path with other values in the searched fields. Trials with equal values are the same
    path, which is traced once.

    Args:
        study: study with exactly one path and no ensemble.
        space: domains of the searched fields by dotted name, such as "radius.tolerance" or "seed": those of
            `fipray.search`, or of Ray Tune (`tune.uniform(0, 1)`) or Optuna, which are converted.
        objectives: "min" or "max" by name of an objective: a column of the points, a measure of the study, or
            "robust_accuracy" under the worst attack per example of the study's evaluation, which is known only at the
            end of a path. With several, the search is for the Pareto front.
        num_trials: number of trials; more of them continue a search that is finished. A grid runs all combinations
            instead.
        searcher: algorithm that proposes values: "random", "optuna" (its tree-structured Parzen estimator, which learns
            from completed trials) or "grid" (all combinations; every domain must be a Choice).
        scheduler: algorithm that stops trials early, by the first objective at saved points: "asha" (asynchronous
            successive halving, Li et al. 2020), "median" (Golovin et al. 2017) or "none".
        grace: fraction of the path, above 0 and below 1, that every trial runs before it can be stopped. It should be
            large enough for trials to rank as they do at their ends: while a restriction such as that of `Sparsify` is
            still tightening, the ranking may be reversed.
        reduction_factor: for ASHA, above 1: about one in so many trials continues past a rung, and rungs are spaced by
            this factor.
        seed: seed of the searcher.

    Raises:
        UsageError: for an unknown name, a value out of range, or settings that do not fit together.
    """

    study: Study
    space: Mapping[str, Any]
    objectives: Mapping[str, str]
    num_trials: int = 16
    searcher: str = "random"
    scheduler: str = "none"
    grace: float = 0.1
    reduction_factor: float = 3.0
    seed: Seed = 0

    def __post_init__(self) -> None:
        if len(self.study.paths) != 1 or self.study.ensembles:
            raise UsageError(
                f"a search needs a study with one path and no ensemble, but study {self.study.name!r} has "
                f"{len(self.study.paths)} paths and {len(self.study.ensembles)} ensembles"
            )
        if not self.space:
            raise UsageError("a search needs a field to search, such as space={'radius.tolerance': LogUniform(...)}")
        domains = {name: domain_of(given, name) for name, given in self.space.items()}
        object.__setattr__(self, "space", domains)
        if fixed := [name for name in self.space if name.split(".")[0] in ("name", "others", "networks")]:
            raise UsageError(f"{fixed[0]} cannot be searched: a trial is named by its values and has no other paths")
        check(self.path, self.space)
        self._check_objectives()
        _check_known("searcher", self.searcher, SEARCHERS)
        if self.scheduler == "pbt":
            raise UsageError(
                "scheduler 'pbt' is not supported: it changes a trial's values on its way and copies weights of other "
                "trials, but a path is determined by one spec and can be traced again. Use 'asha', 'median' or 'none'"
            )
        _check_known("scheduler", self.scheduler, SCHEDULERS)
        if self.scheduler != "none" and self.first_objective == ROBUST:
            raise UsageError(
                f"a scheduler needs the first objective at every saved point, but {ROBUST} is known only at the end of "
                "a path: name another objective first, or use scheduler='none'"
            )
        if not (self.num_trials >= 1 and 0 < self.grace < 1 and 1 < self.reduction_factor < math.inf):
            raise UsageError(
                "num_trials must be at least 1, grace must be above 0 and below 1, and reduction_factor above 1 and "
                f"finite; got {self.num_trials}, {self.grace} and {self.reduction_factor}"
            )
        continuous = [name for name, domain in self.space.items() if not isinstance(domain, Choice)]
        if self.searcher == "grid" and continuous:
            raise UsageError(
                f"a grid needs a Choice for each field, but {continuous[0]} is {self.space[continuous[0]]}"
            )

    def _check_objectives(self) -> None:
        measured = [*AT_POINTS, *self.study.measures, *([ROBUST] if self.study.evaluation else [])]
        if self.study.data.test_inputs is None:
            measured.remove("clean_accuracy")
        if not self.objectives:
            raise UsageError(f"a search needs an objective; valid ones are: {', '.join(measured)}")
        for name, mode in self.objectives.items():
            _check_known("objective", name, measured)
            _check_known(f"mode of {name}:", mode, MODES)

    @property
    def path(self) -> PathSpec:
        """Spec of the path whose fields are searched."""
        return self.study.paths[0]

    @property
    def first_objective(self) -> str:
        """Name of the objective by which a scheduler stops trials."""
        return next(iter(self.objectives))

    @property
    def total(self) -> int:
        """Number of trials; for a grid the number of combinations, which no search can exceed."""
        combinations = num_combinations(self.space)
        if self.searcher == "grid" and combinations:
            return combinations
        return min(self.num_trials, combinations or self.num_trials)

    @cached_property
    def code(self) -> Code:
        """Digests of the user's own code that affects the results of any trial."""
        return {**self.study.code, **code_of(self.space)}

    def values(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Convert draws of a searcher to values of the searched fields.

        Args:
            drawn: draws by dotted name; for a Choice the index of its value.

        Returns:
            Values by dotted name.
        """
        return {name: domain.value(drawn[name]) for name, domain in self.space.items()}

    def drawn(self, config_json: str) -> dict[str, Any]:
        """Convert the values of a trial back to draws.

        Args:
            config_json: values, as `config_json` writes them.

        Returns:
            Draws by dotted name; for a Choice the index of its value.
        """
        return {name: self._drawn(name, value) for name, value in json.loads(config_json).items()}

    def _drawn(self, name: str, plain: Any) -> Any:
        if not isinstance(domain := self.space[name], Choice):
            return plain
        texts = [json.dumps(encode(value), sort_keys=True) for value in domain.values]
        return texts.index(json.dumps(plain, sort_keys=True))

    def config_json(self, drawn: Mapping[str, Any]) -> str:
        """Write the values of a trial as canonical JSON.

        Args:
            drawn: draws by dotted name.

        Returns:
            JSON object of the values by dotted name.
        """
        plain = {name: encode(value) for name, value in self.values(drawn).items()}
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def job(self, drawn: Mapping[str, Any]) -> dict[str, Spec]:
        """Work of one trial: its path and the evaluation of the network at its end.

        Args:
            drawn: draws by dotted name.

        Returns:
            Specs by ID, dependencies first.
        """
        # Names have at most 64 characters: 55, a hyphen and 8 digits.
        named = f"{self.path.name[:55]}-{digest(self.config_json(drawn))[:8]}"
        spec = replace(with_fields(self.path, self.values(drawn)), name=named)
        # The code is read once for the whole search, so that an edit on the way cannot change IDs of later trials.
        specs = replace(self.study, paths=(spec,)).identified(lambda _: self.code)
        return {
            id: one
            for id, one in specs.items()
            if isinstance(one, (PathSpec, RobustnessSpec, AttackSpec)) and one.name == named
        }

    @property
    def manifest(self) -> dict[str, Any]:
        """Identity of the search, its settings and its code, as a results directory records them."""
        study = self.study.manifest
        settings = {
            "searcher": self.searcher,
            "scheduler": self.scheduler,
            "grace": self.grace,
            "reduction_factor": self.reduction_factor,
            "search_seed": self.seed,
            "space": json.dumps({name: encode(domain) for name, domain in self.space.items()}),
            # Not sorted: the first objective decides which trials a scheduler stops, so their order is part of the ID.
            "objectives": json.dumps(dict(self.objectives)),
        }
        evaluation = to_json(self.study.evaluation)
        # Trials with equal values share their jobs, so nobody knows how many there will be.
        return {
            **{key: value for key, value in study.items() if key != "num_jobs"},
            "code": self.code,
            "study_id": digest(study["study_id"], evaluation, json.dumps(settings)),
            "parameters": {**study["parameters"], **settings},
            "objectives": dict(self.objectives),
        }


def _check_known(what: str, name: str, known: list[str] | tuple[str, ...]) -> None:
    if name not in known:
        raise UsageError(f"there is no {what} {name!r}; valid ones are: {', '.join(known)}")
