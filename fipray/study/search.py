"""A search over the fields of a path's spec, as data."""

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
from fipray.study.evaluation import AttackSpec, RobustnessSpec
from fipray.study.space import Choice, Domain, check, with_fields
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
ROBUST = "robust_accuracy"


@spec("search")
@checked
@dataclass(frozen=True, eq=False)
class Search:
    """Walks the one path of a study again and again, with other values in some fields of its spec, and tells which
    values are best.

    space: the fields that are searched, by dotted names such as "radius.tolerance" or "seed", and their values.
    objectives: columns of the points, measures of the study, or "robust_accuracy" under the worst attack of the study's
        evaluation, which is known at the end of a path only; each with "min" or "max". With several, the front of them
        is what is sought.
    num_trials: values that are tried. A grid tries all, whatever this says.
    searcher: who proposes values: "random", "optuna" (its tree-structured Parzen estimator, which learns from trials
        that ended) or "grid", where every domain is a Choice.
    scheduler: who gives trials up on the way, judging the first objective at the points that a path keeps: "asha"
        (asynchronous successive halving, Li et al. 2020), "median" (Golovin et al. 2017), or "none": nobody.
    grace: the share of its path, above 0 and below 1, that every trial walks: as far as to where the order of trials is
        that of their ends. Before a restriction such as that of `Sparsify` has come to hold it may be the reverse.
    reduction_factor: of ASHA, above 1: about one in so many trials goes on from a rung, and rungs are so far apart.
    seed: of the searcher.

    Two trials with the same values are the same path, which is walked once. Raises UsageError for what does not fit.
    """

    study: Study
    space: Mapping[str, Domain]
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
                f"a search is over one path, and study {self.study.name!r} has {len(self.study.paths)} paths and "
                f"{len(self.study.ensembles)} ensembles: give it one path and no ensemble"
            )
        if not self.space:
            raise UsageError("a search needs a field to search, such as space={'radius.tolerance': LogUniform(...)}")
        if fixed := [name for name in self.space if name.split(".")[0] in ("name", "others")]:
            raise UsageError(f"{fixed[0]} is not searched: a trial is named by its values, and looks at no other path")
        check(self.path, self.space)
        self._check_objectives()
        _check_known("searcher", self.searcher, SEARCHERS)
        if self.scheduler == "pbt":
            raise UsageError(
                "scheduler 'pbt' changes a trial's values on its way, and copies other trials' weights. A path here is "
                "named by one spec that anyone can walk again, so there is none: use 'asha', 'median' or 'none'"
            )
        _check_known("scheduler", self.scheduler, SCHEDULERS)
        if self.scheduler != "none" and self.first_objective == ROBUST:
            raise UsageError(
                f"a scheduler judges the first objective on the way, and {ROBUST} is known at the end only: name "
                "another one first, or use no scheduler"
            )
        if not (self.num_trials >= 1 and 0 < self.grace < 1 and 1 < self.reduction_factor < math.inf):
            raise UsageError(
                "num_trials is at least 1, grace is above 0 and below 1, and reduction_factor above 1 and finite; "
                f"{self.num_trials}, {self.grace} and {self.reduction_factor} were given"
            )
        continuous = [name for name, domain in self.space.items() if not isinstance(domain, Choice)]
        if self.searcher == "grid" and continuous:
            raise UsageError(f"a grid is made of choices; {continuous[0]} is {self.space[continuous[0]]}")

    def _check_objectives(self) -> None:
        measured = [*AT_POINTS, *self.study.measures, *([ROBUST] if self.study.evaluation else [])]
        if self.study.data.test_inputs is None:
            measured.remove("clean_accuracy")
        if not self.objectives:
            raise UsageError(f"a search needs an objective; there are: {', '.join(measured)}")
        for name, mode in self.objectives.items():
            _check_known("objective", name, measured)
            _check_known(f"mode of {name}:", mode, MODES)

    @property
    def path(self) -> PathSpec:
        """The spec in which fields are changed."""
        return self.study.paths[0]

    @property
    def first_objective(self) -> str:
        return next(iter(self.objectives))

    @property
    def total(self) -> int:
        """The number of trials."""
        if self.searcher != "grid":
            return self.num_trials
        total = 1
        for domain in self.space.values():
            total *= len(domain.extremes)
        return total

    @cached_property
    def code(self) -> Code:
        """Digests of the user's own code that decides about results: that of all trials."""
        return {**self.study.code, **code_of(self.space)}

    def values(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """The values of the searched fields that were drawn from their domains."""
        return {name: domain.value(drawn[name]) for name, domain in self.space.items()}

    def config_json(self, drawn: Mapping[str, Any]) -> str:
        """The same as canonical JSON."""
        plain = {name: encode(value) for name, value in self.values(drawn).items()}
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def job(self, drawn: Mapping[str, Any]) -> dict[str, Spec]:
        """What a trial does, by id, in order: its path, and what judges the end of that."""
        named = f"{self.path.name[:55]}-{digest(self.config_json(drawn))[:8]}"
        spec = replace(with_fields(self.path, self.values(drawn)), name=named)
        specs = replace(self.study, paths=(spec,)).identified(lambda _: self.code)
        return {
            id: one
            for id, one in specs.items()
            if isinstance(one, (PathSpec, RobustnessSpec, AttackSpec)) and one.name == named
        }

    @property
    def manifest(self) -> dict[str, Any]:
        """What says which search a results directory belongs to."""
        study = self.study.manifest
        settings = {
            "trials": self.total,
            "searcher": self.searcher,
            "scheduler": self.scheduler,
            "grace": self.grace,
            "reduction_factor": self.reduction_factor,
            "search_seed": self.seed,
            "space": json.dumps({name: encode(domain) for name, domain in self.space.items()}),
            "objectives": json.dumps(dict(self.objectives)),
        }
        evaluation = to_json(self.study.evaluation)
        return {
            **study,
            "code": self.code,
            "study_id": digest(study["study_id"], evaluation, json.dumps(settings)),
            "parameters": {**study["parameters"], **settings},
            "objectives": dict(self.objectives),
        }


def _check_known(what: str, name: str, known: list[str] | tuple[str, ...]) -> None:
    if name not in known:
        raise UsageError(f"there is no {what} {name!r}; there are: {', '.join(known)}")
