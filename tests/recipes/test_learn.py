"""The recipe `learn`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fipray as fip
from fipray.errors import DataError, UsageError
from fipray.recipes import Budget, learn
from fipray.recipes.learning.series import Series
from fipray.recipes.learning.trial import Attempt, Trial
from fipray.recipes.machine import Machine
from fipray.recipes.subject import Subject


def tasks(first: int) -> dict[str, fip.Task]:
    """Two tasks of two classes each, around further corners of the cube in which the base network's classes lie."""
    draws, made = np.random.default_rng(1), {}
    for number, name in enumerate(("one", "two")):
        own = draws.integers(0, 2, 300)
        corners = np.eye(8)[3 + 2 * number + own]
        inputs = (draws.normal(0, 1, (300, 8)) + 3 * corners).astype(np.float32)
        labels = own + (first + 2 * number if first else 0)
        made[name] = fip.Task(inputs[:200], labels[:200], inputs[200:], labels[200:])
    return made


@pytest.mark.parametrize(("scenario", "first"), [("shared", 3), ("task", 0)])
def test_learned_network_knows_the_new_tasks_and_most_of_what_it_knew(module, data, tmp_path, scenario, first):
    recipe = learn(module, tasks(first), data, scenario=scenario, num_stored=200, budget={"steps": 200})
    results = recipe.run(tmp_path / "out")
    assert results.named == {"learned": "two"}
    end = results.tasks[results.tasks["name"] == "two"].set_index("task")["accuracy"]
    assert list(end.index) == ["known", "one", "two"]
    # Over seeds 0 to 4 all three stay above 0.8 in one head, and above 0.9 with a head for each task.
    assert end.min() > 0.6
    said = recipe.outcome(results)
    assert "'known'" in said
    assert "base network" in said


def test_stored_inputs_are_shared_by_the_earlier_tasks_and_their_classes(module, data):
    study = learn(module, tasks(3), data, num_stored=60, budget={"steps": 20}).study
    assert {name: len(inputs) for name, inputs in study.data.sets.items() if name.startswith("stored")} == {
        "stored known": 30,
        "stored one": 30,
        "stored two": 30,
    }
    assert [path.anchors for path in study.paths] == [("stored known",), ("stored known", "stored one")]
    assert [path.start for path in study.paths] == ["base", "one"]


def test_head_grows_for_new_labels_and_predicts_as_before(module, data):
    recipe = learn(module, tasks(3), data, budget={"steps": 20})
    inputs = torch.from_numpy(data.held_out)
    outputs = recipe.design.module(inputs)
    assert outputs.shape[1] == 7
    torch.testing.assert_close(outputs[:, :3], module(inputs))
    # New outputs are at the level of the least likely classes, so few inputs change their class.
    assert float((outputs.argmax(1) == module(inputs).argmax(1)).double().mean()) > 0.95


def test_search_judges_the_first_path_by_held_out_examples_and_finds_settings(module, data, tmp_path):
    recipe = learn(module, tasks(3), data, budget={"steps": 20}, beta=60.0, rate=1e-3)
    search = recipe.search(num_trials=2)
    assert dict(search.objectives) == {"task_accuracy": "max", "accuracy_loss": "min"}
    # The second task is not learned by any trial, so it must not count as known.
    assert list(search.study.data.tasks) == ["known", "one", "held out one"]
    held_out = search.study.data.tasks["held out one"]
    assert np.array_equal(held_out.inputs, search.study.data.sets["held out one"])
    assert held_out.test_inputs is None
    fip.search.run(search, tmp_path / "out", fip.LocalRunner())
    results = fip.analysis.load(tmp_path / "out")
    trial = results.pareto().iloc[0]
    found = {name: trial[f"config.{name}"] for name in search.space}
    again = learn(module, tasks(3), data, budget={"steps": 20}, **recipe.settings_of(found))
    first = again.plan.paths[0]
    assert first.stepper.beta == pytest.approx(found["stepper.beta"], rel=1e-3)
    assert first.radius.initial == pytest.approx(found["radius.initial"], rel=1e-3)
    assert f"  {trial['name']}: -p beta=" in recipe.found(results)


def attempts(**ends: tuple[float, float, float]) -> dict[tuple[float, float], Attempt]:
    """Ends of short paths as (lost, accuracy, nll), by beta and rate 1e-3."""
    return {(float(beta[1:]), 1e-3): Attempt(*end, 0.01) for beta, end in ends.items()}


def test_trial_prefers_the_smallest_beta_within_a_paths_share_of_the_allowance(module, data):
    series = Series(Subject(module, data), tasks(3), "shared", 60, 0)
    trial = Trial(series, Machine(), 0.02, Budget.of({"steps": 20}), {})
    assert trial.share == 0.01
    # Of 20 held-out examples one is 5 points, within which accuracies are as good.
    assert trial._best(attempts(b15=(0.0, 0.94, 0.2), b60=(0.0, 0.95, 0.1), b240=(0.0, 0.7, 0.3))) == (15.0, 1e-3)
    assert trial._best(attempts(b15=(0.0, 0.94, 0.2), b60=(0.08, 1.0, 0.1))) == (15.0, 1e-3)
    # None has learned anything: not the smallest beta, but the one on its way.
    unlearned = attempts(b15=(0.0, 0.0, 3.0), b60=(0.0, 0.0, 2.0), b240=(0.0, 0.0, 2.5))
    assert trial._best(unlearned) == (60.0, 1e-3)
    assert "none has learned the task yet" in trial._reason(unlearned, (60.0, 1e-3), 50)
    costly = attempts(b15=(0.08, 0.9, 0.2))
    assert "more than the allowance of 2.0%, and what none of them avoids" in trial._reason(costly, (15.0, 1e-3), 50)


def test_outcome_tells_which_tasks_were_hardly_learned(module, data, tmp_path):
    recipe = learn(module, tasks(3), data, budget={"steps": 1}, beta=0.01, rate=1e-6)
    results = recipe.run(tmp_path / "out")
    said = recipe.outcome(results)
    assert "Hardly learned: 'one', 'two'; take more steps" in said
    assert "No task lost more than the allowance" in said


def test_tasks_outside_the_bounds_of_attacks_are_learned(module, data):
    far = fip.Task(*(lambda one: (one.inputs, one.labels, one.test_inputs + 50, one.test_labels))(tasks(3)["one"]))
    study = learn(module, {"far": far}, data, budget={"steps": 2}, beta=1.0, rate=1e-3).study
    assert study.data.bounds[1] > 40


def test_tasks_that_cannot_be_learned_are_refused(module, data):
    with pytest.raises(UsageError, match="no task to learn"):
        learn(module, {}, data)
    with pytest.raises(UsageError, match="'known' is the name of what the base network knows"):
        learn(module, {"known": tasks(3)["one"]}, data)
    with pytest.raises(UsageError, match="num_stored is the number of stored inputs"):
        learn(module, tasks(3), data, num_stored=1)
    narrow = fip.Task(np.zeros((30, 3), np.float32), np.zeros(30, np.int64))
    with pytest.raises(DataError, match=r"have shape \(3,\), and the anchors \(8,\)"):
        learn(module, {"narrow": narrow}, data)
