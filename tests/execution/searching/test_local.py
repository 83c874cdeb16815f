"""Searches in this process: equal trials, continuation, resumption, and storage that Optuna opens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import optuna
import pytest

import fipray as fip
from fipray import analysis
from fipray.execution import LocalRunner, Silent
from fipray.study.draws import grid_draws, random_draws
from tests.studies import searching


def quick(**changes) -> fip.search.Search:
    """Search with paths of two steps and without an evaluation."""
    usual = searching(num_steps=2, domain="wide")
    study = replace(usual.study, evaluation=None)
    return replace(usual, study=study, objectives={"functional_distance_held_out": "min"}, **changes)


def drawn_in(directory: Path, search: fip.search.Search) -> list[dict]:
    rows = analysis.load(directory).trials.sort_values("trial_id")
    return [search.drawn(text) for text in rows["config_json"]]


def test_random_search_runs_the_draws_of_its_seed_and_continues_with_the_next_ones(tmp_path):
    first, more = quick(num_trials=2), quick(num_trials=4)
    fip.search.run(first, tmp_path, LocalRunner())
    commits = {file.name for file in (tmp_path / "commits").iterdir()}
    fip.search.run(more, tmp_path, LocalRunner())
    assert drawn_in(tmp_path, more) == list(islice(random_draws(more.space, more.seed), 4))
    assert commits < {file.name for file in (tmp_path / "commits").iterdir()}, "no trial is repeated"
    assert set(analysis.load(tmp_path).paths["attempt"]) == {1}


def test_grid_runs_every_combination_once(tmp_path):
    grid = quick(
        searcher="grid", space={"radius.initial": fip.search.Choice((0.01, 0.1)), "seed": fip.search.Choice((3, 1))}
    )
    fip.search.run(grid, tmp_path, LocalRunner())
    assert (
        drawn_in(tmp_path, grid)
        == list(grid_draws(grid.space))
        == [
            {"radius.initial": 0, "seed": 0},
            {"radius.initial": 1, "seed": 0},
            {"radius.initial": 0, "seed": 1},
            {"radius.initial": 1, "seed": 1},
        ]
    )


def test_draws_equal_those_of_ray_tune():
    from ray import tune
    from ray.tune.search.sample import _BackwardsCompatibleNumpyRng
    from ray.tune.search.variant_generator import generate_variants

    space = {
        "a": fip.search.Uniform(0, 1),
        "b": fip.search.LogUniform(1e-3, 1.0),
        "c": fip.search.Integers(0, 99),
        "d": fip.search.Choice(("x", "y", "z")),
        "e": fip.search.LogIntegers(1, 100),
    }
    theirs = {
        "a": tune.uniform(0, 1),
        "b": tune.loguniform(1e-3, 1.0),
        "c": tune.randint(0, 100),
        "d": tune.choice([0, 1, 2]),
        "e": tune.lograndint(1, 101),
    }
    generator = _BackwardsCompatibleNumpyRng(7)
    expected = [next(generate_variants(theirs, random_state=generator))[1] for _ in range(20)]
    assert list(islice(random_draws(space, 7), 20)) == expected
    grid = {"a": fip.search.Choice((1, 2)), "b": fip.search.Choice((1, 2, 3))}
    variants = generate_variants({"a": tune.grid_search([0, 1]), "b": tune.grid_search([0, 1, 2])})
    assert list(grid_draws(grid)) == [spec for _, spec in variants]


def test_storage_holds_the_trials_of_the_tables_and_grows_with_them(tmp_path):
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    for num_trials in (2, 3):
        search = quick(searcher="optuna", num_trials=num_trials)
        fip.search.run(search, tmp_path / "results", LocalRunner(), storage=url)
        (summary,) = optuna.get_all_study_summaries(url)
        study = optuna.load_study(study_name=summary.study_name, storage=url)
        rows = analysis.judged_trials(analysis.load(tmp_path / "results")).set_index("path_id")
        assert len(study.trials) == len(rows) == num_trials
        for trial in study.trials:
            row = rows.loc[trial.user_attrs["path_id"]]
            assert trial.params == {name: row[f"config.{name}"] for name in search.space}
            assert trial.value == row["functional_distance_held_out"]


class Interrupts(Silent):
    """Listener that ends the search when its third trial begins."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def started(self, job, where):
        self.begun.append(job.id)
        if len(self.begun) == 3:
            raise KeyboardInterrupt


def test_interrupted_trial_resumes_with_its_values(tmp_path):
    """By Optuna, which would propose others: the values come from the file in the results directory."""
    search, listener = quick(searcher="optuna", num_trials=4), Interrupts()
    with pytest.raises(KeyboardInterrupt):
        fip.search.run(search, tmp_path, LocalRunner(), listener)
    assert set(analysis.load(tmp_path).trials["path_id"]) == set(listener.begun[:2])
    fip.search.run(search, tmp_path, LocalRunner())
    trials = analysis.load(tmp_path).trials
    assert len(trials) == 4
    assert set(listener.begun) < set(trials["path_id"])


def test_scheduler_stops_trials_and_continues_with_its_rungs(tmp_path):
    usual = searching(domain="wide")
    search = replace(usual, study=replace(usual.study, evaluation=None), objectives={"objective_value": "min"})
    search = replace(search, scheduler="asha", num_trials=4)
    fip.search.run(search, tmp_path, LocalRunner())
    fip.search.run(replace(search, num_trials=6), tmp_path, LocalRunner())
    paths = analysis.load(tmp_path).paths
    stopped = paths["outcome_kind"] == "given up"
    assert len(paths) == 6
    assert 0 < stopped.sum() < 6
    assert (paths.loc[stopped, "num_steps"] < 8).all()


FAILS = True


@dataclass(frozen=True)
class FailsAtFirst:
    """Objective that raises until the test says otherwise."""

    version = 1

    def value(self, problem, weights, batch):
        if FAILS:
            raise ZeroDivisionError("the mistake")
        return weights.square().sum()


def test_failed_trial_is_reported_with_its_values_and_tried_again(tmp_path, monkeypatch):
    usual = quick(searcher="optuna", num_trials=1)
    path = replace(usual.path, objective=FailsAtFirst(), stepper=fip.steppers.FirstOrder(beta=0.1))
    search = replace(usual, study=replace(usual.study, paths=(path,)))
    with pytest.raises(fip.errors.RunError, match=r"1 of 1 trials failed.*\n.*seed=.*ZeroDivisionError: the mistake"):
        fip.search.run(search, tmp_path, LocalRunner())
    monkeypatch.setattr(f"{__name__}.FAILS", False)
    fip.search.run(search, tmp_path, LocalRunner())
    assert list(analysis.load(tmp_path).trials["outcome_kind"]) == ["completed"]


@pytest.mark.parametrize(
    ("changes", "storage", "sentence"),
    [
        ({}, "nothing://x", "Optuna cannot use the storage 'nothing://x'"),
        (
            {"scheduler": "asha", "reduction_factor": 2.5},
            None,
            "ASHA needs a whole number as reduction_factor, got 2.5",
        ),
    ],
)
def test_local_search_refuses_what_it_cannot_do(tmp_path, changes, storage, sentence):
    with pytest.raises(fip.errors.UsageError, match=sentence):
        fip.search.run(quick(**changes), tmp_path / "results", LocalRunner(), storage=storage)
    assert not (tmp_path / "results").exists()
