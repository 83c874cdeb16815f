"""Domains of Ray Tune and Optuna in a search."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import optuna
import pytest

import fipray as fip
from fipray.study.foreign import domain_of
from tests.studies import searching

Choice, Integers, LogIntegers = fip.search.Choice, fip.search.Integers, fip.search.LogIntegers
Uniform, LogUniform = fip.search.Uniform, fip.search.LogUniform


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (optuna.distributions.FloatDistribution(0.5, 2.0), Uniform(0.5, 2.0)),
        (optuna.distributions.FloatDistribution(0.5, 2.0, log=True), LogUniform(0.5, 2.0)),
        (optuna.distributions.FloatDistribution(0.0, 0.3, step=0.1), Choice((0.0, 0.1, 0.2, 0.3))),
        (optuna.distributions.IntDistribution(1, 9), Integers(1, 9)),
        (optuna.distributions.IntDistribution(1, 9, log=True), LogIntegers(1, 9)),
        (optuna.distributions.IntDistribution(1, 9, step=4), Choice((1, 5, 9))),
        (optuna.distributions.CategoricalDistribution(("a", "b")), Choice(("a", "b"))),
        ({"grid_search": [1, 2]}, Choice((1, 2))),
    ],
)
def test_domains_of_optuna_become_ours(given, expected):
    assert domain_of(given, "field") == expected


def test_domains_of_tune_become_ours():
    from ray import tune

    for given, expected in (
        (tune.uniform(0.5, 2.0), Uniform(0.5, 2.0)),
        (tune.loguniform(0.5, 2.0), LogUniform(0.5, 2.0)),
        (tune.quniform(0.0, 0.3, 0.1), Choice((0.0, 0.1, 0.2, 0.3))),
        (tune.randint(1, 9), Integers(1, 8)),  # Tune excludes the upper bound
        (tune.lograndint(1, 9), LogIntegers(1, 8)),
        (tune.qrandint(1, 9, 4), Choice((1, 5, 9))),
        (tune.choice(["a", "b"]), Choice(("a", "b"))),
        (tune.grid_search([1, 2]), Choice((1, 2))),
    ):
        assert domain_of(given, "field") == expected
    for unknown in (tune.randn(0, 1), tune.qloguniform(0.1, 1, 0.1), tune.sample_from(lambda spec: 1)):
        with pytest.raises(fip.errors.UsageError, match=r"the domain of field is .*; expected Uniform, LogUniform"):
            domain_of(unknown, "field")


def test_search_takes_them_and_has_the_same_id():
    ours = replace(searching(), space={"radius.initial": LogUniform(0.01, 1.0)})
    theirs = replace(ours, space={"radius.initial": optuna.distributions.FloatDistribution(0.01, 1.0, log=True)})
    assert theirs.space == ours.space
    assert theirs.manifest["study_id"] == ours.manifest["study_id"]
    with pytest.raises(fip.errors.UsageError, match=r"the domain of radius.initial is \(0.01, 1.0\); expected"):
        replace(ours, space={"radius.initial": (0.01, 1.0)})


def test_too_many_steps_are_refused():
    with pytest.raises(fip.errors.UsageError, match="at most, got 100001"):
        domain_of(optuna.distributions.FloatDistribution(0.0, 1.0, step=1e-5), "field")


def test_searches_are_defined_without_importing_ray_or_optuna():
    code = "import sys, fipray as fip; fip.search.Search; print(sorted({'ray', 'optuna'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
