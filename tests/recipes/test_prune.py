"""The recipe `prune`, and what all recipes share."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fipray as fip
from fipray import analysis
from fipray.errors import DataError, NetworkError, UsageError
from fipray.execution import Silent
from fipray.recipes import Recipe, Subject, prune
from fipray.recipes.anchors import AnchorChoice
from fipray.recipes.machine import Machine
from fipray.recipes.pruning.choices import PruningChoices
from fipray.recipes.pruning.trial import Trial
from fipray.recipes.trial import Attempt, Bench
from fipray.study import Columns
from tests.recipes.conftest import blobs, small_data

HARD = {"sparsity": 0.9, "budget": {"steps": 40}, "radius": 1e-6, "guard": 0.0, "batch_size": 16}
GIVEN = {"sparsity": 0.5, "budget": {"steps": 40}, "allowance": 0.2}


@pytest.fixture(scope="module")
def recipe(module, data) -> Recipe:
    return prune(module, data, **GIVEN)


@pytest.fixture(scope="module")
def directory(recipe, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("results") / "out"
    recipe.run(directory)
    return directory


def test_prune_reaches_the_sparsity_and_names_its_result(recipe, directory):
    results = analysis.load(directory)
    assert results.named == {"pruned": "pruning"}
    # The allowance of 20 points is several times what halving this network costs on any seed of the trial.
    assert np.mean(results.weights("pruned") == 0) == pytest.approx(0.5, abs=0.01)
    assert "has the 50% sparsity that was asked for" in recipe.outcome(results)
    assert f"of all weights {np.mean(results.weights('pruned') == 0):.1%} are zero" in recipe.outcome(results)


def test_rerun_reuses_the_recorded_choices_and_computes_nothing(module, data, recipe, directory):
    again = prune(module, data, **GIVEN)
    results = again.run(directory)
    inputs = torch.from_numpy(data.held_out)
    assert torch.equal(results.module("pruned")(inputs), results.module("pruned", module)(inputs))
    assert list(results.paths["attempt"]) == [1]
    assert again.chosen == recipe.chosen
    # A budget in steps times nothing, so another trial chooses the same.
    assert prune(module, data, **GIVEN).chosen.values == recipe.chosen.values


class Doing(Silent):
    """Listener that keeps what is done while no job runs."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def doing(self, sentence: str) -> None:
        self.said.append(sentence)


def test_trial_says_each_short_path_to_the_listener(module, data, tmp_path):
    listener = Doing()
    made = prune(module, data, sparsity=0.5, budget={"steps": 40}, batch_size=64, matches="logits")
    made.run(tmp_path / "out", listener=listener)
    assert listener.said[:4] == [
        "checking the network on held-out inputs",
        "accuracy of the base network on 200 test inputs",
        "trial: outputs of the base network on 400 anchors",
        "trial: radius 0.167, batches of 64, matching logits, short path of 8 steps",
    ]
    judging = (
        "trial: radius 0.167, batches of 64, matching logits, judging the end of the short path on 100 held-out inputs"
    )
    assert judging in listener.said
    assert "making the study: choosing anchors, hashing data, trying each path on two inputs" in listener.said
    assert listener.said[-1] == "setting up the worker"


def test_directory_of_other_parameters_is_refused_before_the_trial(module, data, directory):
    with pytest.raises(UsageError, match=r"sparsity is 0\.5 there and 0\.8 here"):
        prune(module, data, **{**GIVEN, "sparsity": 0.8}).run(directory)
    with pytest.raises(UsageError, match=r"given\.radius is 'not set' there and 0\.1 here"):
        prune(module, data, **GIVEN, radius=0.1).run(directory)


def test_choices_and_reasons_are_in_the_manifest(recipe, directory):
    parameters = analysis.load(directory).manifest["parameters"]
    assert parameters["recipe"] == "prune"
    assert parameters["chosen.num_steps"] == 40
    assert parameters["reasons"].splitlines() == list(recipe.chosen.reasons)
    assert json.loads(parameters["results"])["pruned"] == {
        **{"rule": "sparsest_within", "paths": ["pruning"], "measure": "accuracy_loss", "least": None, "most": 0.2}
    }


def test_settings_can_be_overridden_by_name(module, data):
    made = prune(module, data, sparsity=0.5, budget={"steps": 40}, radius=0.07, batch_size=16, fallback=0.25, guard=0.0)
    path, lower = made.study.paths
    assert path.batch_size == 16
    assert path.radius == fip.radii.Scheduled(0.07)
    assert (lower.objective.sparsity, lower.num_steps) == (0.25, 6)
    with pytest.raises(UsageError, match="no setting 'lr'; settings are: stepper, matches"):
        prune(module, data, lr=0.1)


def test_sparsity_out_of_reach_leaves_the_sparsest_network_within_the_allowance(module, data, tmp_path):
    # Radius 1e-6 recovers nothing: at 90 % the classes cannot be told apart, at 10 % hardly any prediction changes.
    hard = prune(module, data, **{**HARD, "allowance": 0.05}, fallback=0.1)
    results = hard.run(tmp_path / "out")
    assert results.named["pruned"] == "pruning-less"
    assert "90% sparsity was not reached within the allowance of 5.0%" in hard.outcome(results)
    assert np.array_equal(results.weights("pruned"), results.weights("pruning-less"))


def test_second_path_is_longer_where_the_first_is_unlikely_to_be_the_result(module, data):
    first, second = prune(module, data, **HARD).study.paths
    assert second.num_steps == round(0.4 * first.num_steps)
    first, second = prune(module, data, **HARD, share=0.2).study.paths
    assert second.num_steps == round(0.2 * first.num_steps)
    with pytest.raises(UsageError, match="share is a ratio of steps above 0"):
        prune(module, data, share=0.0)


def test_no_network_within_the_allowance_leaves_the_base(module, data, tmp_path):
    hard = prune(module, data, **HARD, fallback=0.0)
    results = hard.run(tmp_path / "out")
    assert results.named["pruned"] == "base"
    assert "No network on the paths is within the allowance" in hard.outcome(results)
    assert "with held_out_labels, accuracy is measured" in hard.outcome(results)


def test_labels_of_held_out_inputs_are_what_is_judged(module, tmp_path):
    labels = blobs(700)[1][400:500]
    labelled = prune(module, small_data(held_out_labels=labels), sparsity=0.5, budget={"steps": 40}, allowance=0.1)
    rule = labelled.plan.results["pruned"]
    with torch.no_grad():
        base = float(np.mean(module(torch.from_numpy(blobs(700)[0][400:500])).argmax(1).numpy() == labels))
    assert (rule.measure, rule.least, rule.most) == ("held_out_accuracy", pytest.approx(base - 0.1), None)
    assert set(labelled.run(tmp_path / "out").point_measures["measure"]) >= {"agreement", "held_out_accuracy"}


def test_regression_is_judged_by_the_variance_that_is_kept(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    inputs = blobs(300)[0]
    data = fip.Data(anchors=inputs[:200], held_out=inputs[200:], bounds=(-10.0, 10.0))
    made = prune(module, data, sparsity=0.3, budget={"steps": 60}, allowance=0.5)
    assert isinstance(made.study.geometry, fip.Euclidean)
    results = made.run(tmp_path / "out")
    kept = results.point_measures.query("measure == 'agreement'")["value"]
    assert kept.iloc[0] == 1.0  # the base network itself
    assert results.named["pruned"] in ("pruning", "pruning-less")


def test_semi_structured_and_channel_patterns_have_their_usual_sparsity(module, data):
    for pattern, kind in (("2:4", "SemiStructured"), ("channels", "Structured")):
        objective = prune(module, data, pattern=pattern, budget={"steps": 20}).study.paths[0].objective
        assert (objective.sparsity, type(objective.pattern).__name__) == (0.5, kind)


def test_networks_that_cannot_be_pruned_are_refused(module, data):
    frozen = nn.Sequential(nn.Linear(8, 3).requires_grad_(False), nn.BatchNorm1d(3)).eval()
    with pytest.raises(NetworkError, match="no layers whose weights can be pruned"):
        _ = prune(frozen, data).study
    constant = nn.Sequential(nn.Linear(8, 3)).eval()
    nn.init.zeros_(constant[0].weight)
    with pytest.raises(NetworkError, match="outputs are the same on all 100 held-out inputs"):
        _ = prune(constant, data).study
    untrained = nn.Sequential(nn.Linear(8, 3)).eval()
    with torch.no_grad():
        untrained[0].weight.copy_(-torch.eye(3, 8))  # the class of each input is the one it is least like
    with pytest.raises(NetworkError, match=r"where a guess among 3 classes gives 33\.3%"):
        _ = prune(untrained, data).study


@pytest.mark.parametrize("choice", [AnchorChoice(7), AnchorChoice(mirrored=True)])
def test_chosen_anchors_keep_their_labels(choice):
    images = np.random.default_rng(0).random((10, 1, 8, 8), dtype=np.float32)
    labels = np.arange(10)
    chosen = choice.of(fip.Data(images, images, anchor_labels=labels))
    own = images[chosen.anchor_labels]
    is_own = (chosen.anchors == own).all((1, 2, 3)) | (chosen.anchors == own[..., ::-1]).all((1, 2, 3))
    assert is_own.all()


class Weighed(nn.Module):
    """Classifier of two inputs, as encoders of text are: values, and a mask of those that count."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.inner(values * mask)


def test_several_inputs_are_packed_for_the_trial_and_the_study(module, tmp_path):
    values, labels = blobs(300)
    arrays = {"values": values, "mask": np.ones(values.shape, np.int64), "labels": labels}
    data = fip.Data.of(Columns(arrays, ("values", "mask"), "labels"))
    results = prune(Weighed(module).eval(), data, **GIVEN).run(tmp_path / "out")
    assert np.mean(results.weights("pruning") == 0) == pytest.approx(0.5, abs=0.01)


def test_budget_too_short_for_measuring_leaves_half_of_it_to_steps(module, data, monkeypatch):
    monkeypatch.setattr(Bench, "forward_seconds", 0.01)
    steps = prune(module, data, budget="2 s", batch_size=32).chosen
    assert steps.values["num_steps"] > 100
    assert any("The budget is short for this network" in reason for reason in steps.reasons)


def test_guard_is_left_out_where_no_network_is_as_far(module, data):
    trial = Trial(prune(module, data).design.task, Machine())
    assert trial._guard(PruningChoices(), Attempt(3.0, 0.1, 0.01)).guard == 0
    assert trial._guard(PruningChoices(), Attempt(0.3, 0.9, 0.01)).guard == pytest.approx(0.6)


def test_few_anchors_are_said(module, data):
    few = replace(data, anchors=data.anchors[:50])
    assert any("only 50 anchors" in reason for reason in prune(module, few, budget={"steps": 20}).chosen.reasons)


@pytest.mark.parametrize(
    ("name", "value"), [("sparsity", 0.0), ("sparsity", 1.0), ("allowance", 0.0), ("budget", "soon")]
)
def test_arguments_out_of_range_are_refused(module, data, name, value):
    with pytest.raises(UsageError, match=name):
        prune(module, data, **{name: value})


def test_search_varies_the_settings_around_the_chosen_ones(recipe):
    search = recipe.search(num_trials=3)
    assert search.num_trials == 3
    assert search.objectives == {"agreement": "max"}
    assert "objective.ramp" in search.space
    assert set(recipe.plan.settings) == set(search.space)
    assert recipe.settings_of({"objective.ramp": 0.4, "batch_size": 32}) == {"ramp": 0.4, "batch_size": 32}
    with pytest.raises(UsageError, match="has no setting for 'seed'; its search varies: "):
        recipe.settings_of({"seed": 1})


def test_representation_runs_no_trial_and_describe_gives_reasons(module, data):
    recipe = prune(module, data, **GIVEN)
    assert "settings are chosen when it runs" in repr(recipe)
    assert "chosen" not in vars(recipe)
    assert "held-out inputs as the best" in recipe.describe()
    assert repr(recipe) == recipe.describe()


def test_subject_takes_a_single_output_without_labels_for_a_value(module, data):
    assert Subject(module, data).is_classifier
    one = nn.Sequential(nn.Linear(8, 1)).eval()
    unlabelled = fip.Data(anchors=data.anchors, held_out=data.held_out)
    assert not Subject(one, unlabelled).is_classifier
    assert Subject(one, unlabelled, "classes").is_classifier


def test_results_of_a_study_have_no_names(tmp_path, module, data):
    path = fip.PathSpec("sparse", fip.objectives.Sparsify(0.5), stepper=fip.steppers.FirstOrder(), num_steps=2)
    study = fip.Study("own", module, data, (path,), parameters={"results": "any"})
    fip.LocalRunner().run(study, tmp_path / "out")
    assert analysis.load(tmp_path / "out").named == {}


def test_recipe_takes_what_data_is_made_of(module):
    inputs, labels = blobs(200)
    made = prune(module, (inputs, labels), budget={"steps": 2}).study.data
    assert made.digest == fip.Data.of((inputs, labels)).digest == fip.Data.of(made).digest
    with pytest.raises(DataError, match="the source is 3; it can be"):
        prune(module, 3)
    with pytest.raises(DataError, match="the source is a Data, which is divided already"):
        fip.Data.of(made, limit=10)
