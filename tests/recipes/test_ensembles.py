"""The recipes `robust-ensemble` and `diverse-ensemble`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch

import fipray as fip
from fipray import analysis
from fipray.analysis.named import named_networks
from fipray.errors import DataError, UsageError
from fipray.recipes import FirstMeasured, FirstWithin, diverse_ensemble, robust_ensemble
from fipray.recipes.ensembles.diverse import with_labels
from fipray.recipes.ensembles.robust import BELIEF
from tests.recipes.conftest import blobs

ROBUST = {"epsilon": 0.5, "allowance": 0.05, "budget": {"steps": 60}, "members": 2, "num_examples": 60}


def test_robust_ensemble_stays_within_its_allowance_and_names_its_result(module, data, tmp_path):
    recipe = robust_ensemble(module, data, **ROBUST)
    results = recipe.run(tmp_path / "out")
    rows = results.robustness.set_index(["name", "attack"])
    network = results.named["ensemble"]
    assert rows.loc[(network, "none"), "accuracy_loss_held_out"] <= 0.05
    # Test inputs decide nothing. Over seeds 0 to 4 clean accuracy rose or fell by less than two points.
    before, after = (rows.loc[(name, "none"), "clean_accuracy"] for name in ("base", network))
    assert before - after < 0.1
    assert "Robust accuracy (linf, epsilon 0.5" in recipe.outcome(results)
    assert set(results.robustness["name"]) == {
        *("base", "robust-0", "robust-1", "robust", "robust-with-base", "robust-mostly-base")
    }


def test_result_that_loses_more_on_test_inputs_than_allowed_is_said_to(module, data):
    task = robust_ensemble(module, data, **ROBUST).design.task
    assert task.beyond({"clean": 0.93}, {"clean": 0.98}) == ()
    (said,) = task.beyond({"clean": 0.91}, {"clean": 0.98})
    assert said == (
        "On these that is 7.0 points less, more than the allowance of 5.0%, which was judged on 100 held-out inputs: "
        "give more of them, or a smaller allowance."
    )


def test_member_beyond_the_allowance_is_led_back_towards_the_base_network(module, data, tmp_path):
    # Steps several times as long as the weights leave outputs that have nothing to do with the base network's.
    far = {**ROBUST, "allowance": 0.001, "members": 3, "budget": {"steps": 10}, "radius": 100.0}
    recipe = robust_ensemble(module, data, **far)
    results = recipe.run(tmp_path / "out")
    assert list(results.paths["outcome_kind"]) == ["stopped"] * 3
    measured = results.point_measures.query("measure == 'accuracy_loss'")
    assert float(measured["value"].max()) <= 0.001 / BELIEF
    assert "3 of 3 members were led back" in recipe.outcome(results)
    said = "until they lost at most 0.1% of accuracy, by 50% of the base network's own estimate, on"
    assert said in recipe.outcome(results)


def test_labels_of_held_out_inputs_judge_by_the_whole_allowance_and_the_base_networks_estimate_counts_by_half(
    module, data
):
    labelled = replace(data, held_out_labels=np.zeros(len(data.held_out), dtype=np.int64))
    bounds = [robust_ensemble(module, given, **ROBUST).design.task.most for given in (labelled, data)]
    assert bounds == [ROBUST["allowance"], ROBUST["allowance"] / BELIEF]
    diverse = diverse_ensemble(module, data, allowance=0.05, budget={"steps": 30})
    assert diverse.design.task.most == 0.05


def test_without_test_inputs_the_result_is_the_first_that_all_members_measured_within_the_allowance(
    module, data, tmp_path
):
    unlabelled = replace(data, test_inputs=None, test_labels=None)
    results = robust_ensemble(module, unlabelled, **ROBUST).run(tmp_path / "out")
    ends = results.point_measures.sort_values("step").groupby(["measure", "path_id"])["value"].last()
    worst = ends.groupby("measure").max()
    assert sorted(worst.index) == ["accuracy_loss", "loss_alone", "loss_with_base"]
    order = {"robust": "loss_alone", "robust-with-base": "loss_with_base", "robust-mostly-base": "accuracy_loss"}
    within = [name for name, measure in order.items() if worst[measure] <= ROBUST["allowance"] / BELIEF]
    assert results.named == {"ensemble": (*within, "base")[0]}


@pytest.mark.parametrize(
    ("alone", "mixed", "expected"),
    [
        ({"p": 0.01, "q": 0.02}, {"p": 0.0, "q": 0.0}, "a"),
        ({"p": 0.01, "q": 0.03}, {"p": 0.0, "q": 0.0}, "b"),
        ({"p": 0.03, "q": 0.01}, {"p": 0.0, "q": 0.03}, "base"),
        ({"p": 0.01, "q": None}, {"p": 0.0, "q": 0.0}, "b"),  # outputs that are not finite
        ({"p": 0.01}, {"p": 0.0}, None),  # the second path has not ended yet
    ],
)
def test_first_network_that_every_path_measured_within_the_allowance_is_the_result(alone, mixed, expected):
    first = FirstMeasured({"a": "alone", "b": "mixed"}, ("p", "q"), 0.02)
    rule = json.dumps({"ensemble": {"rule": "first_measured", **asdict(first)}})
    paths = pd.DataFrame([{"name": name, "path_id": f"id-{name}"} for name in alone])
    rows = [
        {"path_id": f"id-{name}", "step": step, "measure": measure, "value": value if step else 9.0}
        for measure, values in (("alone", alone), ("mixed", mixed))
        for name, value in values.items()
        for step in (0, 5)
    ]
    found = named_networks(
        {"parameters": {"recipe": "robust-ensemble", "results": rule}},
        {"paths": paths, "point_measures": pd.DataFrame(rows)},
    )
    assert found == ({} if expected is None else {"ensemble": expected})


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        ({"a": 0.01, "b": 0.0}, "a"),
        ({"a": 0.03, "b": 0.02}, "b"),
        ({"a": 0.03, "b": 0.03}, "base"),
        ({"a": None, "b": 0.0}, "b"),  # outputs that are not finite
        ({"b": 0.0}, None),  # the first has not been evaluated yet
    ],
)
def test_first_network_within_the_allowance_is_the_result(lost, expected):
    rule = json.dumps({"ensemble": {"rule": "first_within", **asdict(FirstWithin(("a", "b"), 0.02))}})
    rows = [{"name": name, "attack": "none", "accuracy_loss_held_out": value} for name, value in lost.items()]
    found = named_networks(
        {"parameters": {"recipe": "robust-ensemble", "results": rule}}, {"robustness": pd.DataFrame(rows)}
    )
    assert found == ({} if expected is None else {"ensemble": expected})


def test_diverse_members_disagree_within_the_allowance(module, data, tmp_path):
    recipe = diverse_ensemble(module, data, allowance=0.05, budget={"steps": 30}, members=2, num_examples=20, rounds=2)
    results = recipe.run(tmp_path / "out")
    rows = results.robustness.query("attack == 'none'").set_index("name")["nll_loss_held_out"]
    candidates = ["diverse", "diverse-with-base", "diverse-with-base-twice"]
    lower = [name for name in candidates if rows[name] <= 0]
    assert results.named == {"ensemble": lower[0] if lower else "base"}
    for _, points in results.points.groupby("name"):
        assert points["objective_value"].iloc[-1] < points["objective_value"].iloc[0]
    measured = results.point_measures.query("measure == 'accuracy_loss'")
    assert float(measured["value"].max()) <= 0.05
    assert "Negative log-likelihood" in recipe.outcome(results)


def test_labelled_tests_that_judge_a_diverse_ensemble_are_not_reported(data):
    judged = with_labels(data)
    assert (len(judged.held_out), len(judged.test_inputs)) == (100, 100)
    both = np.concatenate([judged.held_out, judged.test_inputs])
    assert np.array_equal(np.sort(both, 0), np.sort(data.test_inputs, 0))
    labelled = replace(data, held_out_labels=np.zeros(len(data.held_out), dtype=np.int64))
    assert with_labels(labelled) is labelled


def test_arguments_that_no_ensemble_can_have_are_refused(module, data):
    for given, said in (
        ({"allowance": 0.0}, "allowance is a fraction"),
        ({"members": 0}, "members=0 was given"),
        ({"speed": 1}, "no setting 'speed'"),
    ):
        with pytest.raises(UsageError, match=said):
            robust_ensemble(module, data, **given)
    inputs, _ = blobs(50)
    outside = fip.Data(anchors=inputs, held_out=inputs)
    with pytest.raises(DataError, match=r"anchors lie in .* outside the bounds 0\.0\.\.1\.0"):
        _ = robust_ensemble(module, outside, **ROBUST).study


def test_rerun_of_a_robust_ensemble_computes_nothing(module, data, tmp_path):
    first = robust_ensemble(module, data, **ROBUST)
    first.run(tmp_path / "out")
    again = robust_ensemble(module, data, **ROBUST)
    again.run(tmp_path / "out")
    assert list(analysis.load(tmp_path / "out").paths["attempt"]) == [1, 1]
    assert again.chosen == first.chosen


def test_accuracy_loss_is_exact_with_labels_and_estimated_without():
    base = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]]).log()
    other = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.1, 0.9]]).log()
    loss = fip.study.AccuracyLoss(standard_errors=0.0)
    # They differ on the second input alone, where the base network is right with probability 0.6, the other with 0.4.
    assert loss.between(other, base) == pytest.approx(0.2 / 3)
    assert loss.between(other, base, torch.tensor([0, 0, 1])) == pytest.approx(1 / 3)
    assert loss.between(other, base, torch.tensor([0, 1, 1])) == pytest.approx(-1 / 3)
    # Losses 0, 0.2, 0: a mean of 0.2 / 3 with a standard deviation of 0.2 / sqrt(3), over sqrt(3).
    assert fip.study.AccuracyLoss().between(other, base) == pytest.approx(0.4 / 3)
    # Mixed in equal parts the second input has 0.5 for both classes; with more of the base network its class wins.
    assert fip.study.AccuracyLoss(standard_errors=0.0, base_weight=0.6).between(other, base) == 0.0
    broken = torch.tensor([[torch.nan, 0.0], [0.0, -1.0], [0.0, 1.0]])
    assert loss.between(broken, base) == pytest.approx(0.8 / 3)


def test_searches_judge_by_held_out_inputs_alone(module, data, tmp_path):
    robust = robust_ensemble(module, data, **ROBUST).search(num_trials=2)
    assert dict(robust.objectives) == {"robust_agreement": "max", "accuracy_loss": "min"}
    assert robust.study.evaluation is None
    diverse = diverse_ensemble(module, data, budget={"steps": 4}, members=2).search(num_trials=2)
    fip.search.run(diverse, tmp_path / "out", fip.LocalRunner())
    trials = analysis.load(tmp_path / "out").trials
    assert len(trials) == 2
    assert set(diverse.space) == {"radius.initial", "stepper.stepper.beta"}
