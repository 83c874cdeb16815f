"""What is called: every public function and class that checks its arguments, and what is right about its results."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st

import fipray as fip
from benchmarks.faults.fuzz import oracles, subjects
from benchmarks.faults.fuzz.values import arguments_of
from fipray import analysis, cluster, export, geometry, networks, paths, robustness, study as studies
from fipray.border.checking import is_checked
from fipray.registry import registered_name
from fipray.study.canonical import from_json, to_json

APART = {"search", "print_summary", "trace", "walk", "connect", "Problem"}  # starts Ray; prints; below


@dataclass(frozen=True)
class Target:
    """A callable, its weight among the calls, and a check of results that raises AssertionError."""

    name: str
    function: Callable[..., Any]
    check: Callable[[Mapping[str, Any], Any], None]
    weight: int = 1
    always: tuple[str, ...] = ()

    def arguments(self) -> st.SearchStrategy[dict[str, Any]]:
        return arguments_of(self.function, self.name, self.always)

    def call(self, arguments: Mapping[str, Any]) -> None:
        self.check(arguments, self.function(**arguments))


def targets() -> Iterator[Target]:
    """All of them."""
    for home in (paths, geometry, networks, robustness, studies, cluster, analysis):
        for name in home.__all__:
            function = getattr(home, name)
            if is_checked(function) and name not in APART:
                check = getattr(oracles, f"check_{name}", spec if is_dataclass(function) else oracles.finite)
                yield Target(name, function, check, 3 if isinstance(function, type) else 2)
    yield Target("Problem", fip.Problem, oracles.nothing, 40)
    yield Target("trace", traced, oracles.check_trace, 40)
    yield Target("walk", walked, oracles.check_walk, 10)
    yield Target("connect", fip.connect, oracles.check_connect, 10, ("num_rounds",))
    yield Target("Network.of", fip.Network.of, oracles.check_network, 4)
    yield Target("Network.at", subjects.network().at, oracles.nothing, 2)
    yield Target("Network.module_at", subjects.network().module_at, oracles.nothing, 2)
    for attack in (
        fip.attacks.FGSM(),
        fip.attacks.PGD(2),
        fip.attacks.TargetedPGD(2, 2),
        fip.attacks.RandomNoise(2),
        fip.attacks.RandomSearch(2),
    ):
        yield Target(f"{type(attack).__name__}.perturb", attack.perturb, oracles.check_perturb, 3)
    yield Target("LocalRunner.run", fip.LocalRunner().run, oracles.nothing, 2)
    yield Target("export", export.export, oracles.nothing, 4)
    results = analysis.load(subjects.results())
    yield Target("Results.weights", results.weights, oracles.finite, 3)
    yield Target("Results.pareto", results.pareto, oracles.nothing, 3)


def walked(**arguments: Any) -> list[Any]:
    return list(fip.walk(**arguments))


def traced(**arguments: Any) -> Any:
    return fip.trace(**arguments)


for _made, _by in ((walked, fip.walk), (traced, fip.trace)):
    _made.__signature__ = inspect.signature(_by)  # type: ignore[union-attr]
    _made.__wrapped__ = _by  # type: ignore[union-attr]


def spec(arguments: Mapping[str, Any], made: Any) -> None:
    """Check that a spec holds its arguments and equals its copies and its decoded JSON."""
    assert replace(made) == made or not _comparable(made)
    copied = copy.deepcopy(made)
    assert type(copied) is type(made)
    try:
        text = to_json(made)
    except fip.errors.UsageError:
        return
    assert "NaN" not in text
    if registered_name(type(made)):
        assert from_json(text) == made
        assert pickle.loads(pickle.dumps(made)) == made


def _comparable(made: Any) -> bool:
    own_equality = "__eq__" in {name for cls in type(made).__mro__[:-1] for name in vars(cls)}
    return own_equality and not any(isinstance(one, torch.Tensor) for one in vars(made).values())
