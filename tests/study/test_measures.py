"""Measures and distances of kept quantities in tables, events and searches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import fipray as fip
from fipray import analysis
from fipray.errors import DataError, UsageError
from fipray.execution import LocalRunner
from fipray.study import Agreement
from tests.quantities import size
from tests.studies import CutOff, measured, module, searching_measures


def run(study: fip.Study, directory) -> analysis.Results:
    LocalRunner().run(study, directory)
    return analysis.load(directory)


def size_of(found: nn.Module) -> float:
    return size(found.requires_grad_(False))


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> analysis.Results:
    return run(measured(), tmp_path_factory.mktemp("results") / "measured")


def test_a_row_for_each_point_and_measure_says_what_the_module_there_has(results):
    points = results.points.set_index(["name", "step"])
    assert len(results.point_measures) == 2 * len(points)
    network = fip.Network.of(module())
    sizes = results.point_measures[results.point_measures["measure"] == "size"]
    for row in sizes.itertuples():
        weights = results.weights(row.name) if row.step == 6 else None
        if weights is not None:
            assert row.value == size_of(network.module_at(torch.from_numpy(weights)))
    base = sizes[sizes["step"] == 0]["value"]
    assert (base == size_of(module())).all()
    robust = results.point_measures[results.point_measures["measure"] == "robust"]["value"]
    assert robust.between(0, 1).all()


def test_a_row_for_each_point_and_kept_quantity_adds_up_to_the_functional_distance(results):
    distances = results.point_distances.set_index(["name", "step"])
    assert set(distances["kept"]) == {"classes", "total"}
    squares = (distances[["distance", "distance_held_out"]] ** 2).groupby(level=["name", "step"]).sum() ** 0.5
    points = results.points.set_index(["name", "step"])
    np.testing.assert_allclose(squares["distance"], points["functional_distance"], rtol=1e-6)
    np.testing.assert_allclose(squares["distance_held_out"], points["functional_distance_held_out"], rtol=1e-6)
    start = distances.loc[(slice(None), 0), :].set_index("kept")["distance"]
    assert (start["classes"] == 0).all()
    assert (start["total"] > 0).all()


def test_a_path_that_was_cut_off_goes_on_to_equal_rows(results, tmp_path):
    mended = tmp_path / "mended"
    study = measured(stepper=CutOff(str(mended)))
    with pytest.raises(fip.errors.RunError):
        LocalRunner().run(study, tmp_path / "results")
    mended.touch()
    again = run(study, tmp_path / "results")
    assert set(again.paths["attempt"]) == {2}
    for name in ("point_measures", "point_distances"):
        one, other = (getattr(each, name).drop(columns=["path_id", "attempt"]) for each in (again, results))
        assert one.equals(other)


def test_events_are_about_a_measure_or_a_kept_quantity(results, tmp_path):
    """Thresholds of events halfway between start and end of the path without events."""
    usual = measured().paths[0]
    walked = results.point_measures.query("name == 'path-0' and measure == 'size'")["value"]
    first, last = walked.iloc[0], walked.iloc[-1]
    half, beyond = (first + last) / 2, fip.events.MeasureAbove if last > first else fip.events.MeasureBelow
    far = results.point_distances.query("name == 'path-0' and kept == 'classes'")["distance_held_out"].max() / 2
    events = {
        "limit": beyond("size", half),
        "goal": beyond("size", half, goal=True),
        "near": fip.events.FunctionalDistanceAbove(far, of="classes"),
    }
    for name, event in events.items():
        ended = run(replace(measured(), paths=(replace(usual, name=name, events=(event,)),)), tmp_path / name)
        assert ended.paths["outcome_kind"].tolist() == ["stopped"]
        sizes = ended.point_measures.query("measure == 'size'")["value"]
        reached = sizes > half if last > first else sizes < half
        assert reached.iloc[:-1].sum() == 0
        if name != "near":
            assert reached.iloc[-1] == (name == "goal")
            assert "size" in ended.paths["outcome"].iloc[0]
        else:
            assert (ended.point_distances.query("kept == 'classes'")["distance_held_out"] <= far).all()
            assert "the distance of 'classes'" in ended.paths["outcome"].iloc[0]


def test_what_does_not_fit_is_refused_when_the_study_is_made():
    path = measured().paths[0]
    unknown = replace(path, events=(fip.events.MeasureBelow("viscosity", 0.5),))
    far = replace(path, events=(fip.events.FunctionalDistanceAbove(0.5, of="energy"),))
    for make, said in (
        (
            lambda: replace(measured(), paths=(unknown,)),
            "refers to the unknown measure 'viscosity'; valid names are: 'clean_accuracy'",
        ),
        (
            lambda: replace(measured(), paths=(far,)),
            "the unknown kept quantity 'energy'; valid names are: 'classes', 'total'",
        ),
        (lambda: measured(measures={"gain": "tests.quantities:size"}), "'gain' has the name of a column"),
        *(
            (lambda name=name: measured(measures={name: "tests.quantities:size"}), f"{name!r} has the name of a column")
            for name in ("clean_accuracy", "num_steps", "trial_id", "weights_distance", "robust_accuracy")
        ),
        (lambda: measured(measures={"a b": "tests.quantities:size"}), "'a b' has an invalid name"),
        (lambda: measured(measures={"a": "tests.quantities:nothing"}), "has no function 'nothing'"),
        (
            lambda: measured(keeps={"a": fip.keeps.Slopes(on="nowhere")}),
            "'a' refers to the unknown set 'nowhere'; the data has the sets: 'more'",
        ),
        (
            lambda: fip.study.RobustAccuracy(fip.ThreatModel("linf", 0.1), num_examples=0),
            "num_examples must be at least 1, got 0",
        ),
        (lambda: fip.events.MeasureAbove("a", float("inf")), "a finite number"),
    ):
        with pytest.raises(UsageError, match=said):
            make()


def test_a_measure_that_is_no_number_fails_its_path_with_a_sentence(tmp_path):
    with pytest.raises(fip.errors.RunError, match="probe 'a' returned 'large'; expected a number"):
        LocalRunner().run(measured(measures={"a": "tests.quantities:no_number"}), tmp_path)


def test_robust_accuracy_needs_labelled_inputs():
    measure = fip.study.RobustAccuracy(fip.ThreatModel("linf", 0.1))
    network = fip.Network.of(module())
    with pytest.raises(DataError, match="labelled test inputs"):
        measure.measured(network, network.weights, None)


def test_robust_agreement_of_a_linear_classifier_is_known_exactly():
    linear = nn.Linear(2, 2, bias=False).eval()
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    network = fip.Network.of(linear)
    # An attack of epsilon moves the difference of both inputs, the margin, by 2 epsilon.
    held_out = torch.tensor([[0.9, 0.1], [0.6, 0.5], [0.2, 0.8], [0.5, 0.45]])
    measure = fip.study.RobustAgreement(fip.ThreatModel("linf", 0.1))
    assert measure.measured_on(network, network.weights, held_out, None) == 0.5
    assert measure.measured_on(network, network.weights, held_out, torch.tensor([0, 0, 0, 0])) == 0.25
    swapped = torch.tensor([0.0, 1.0, 1.0, 0.0])
    assert measure.measured_on(network, swapped, held_out, None) == 0
    with pytest.raises(UsageError, match="num_examples must be at least 1, got 0"):
        replace(measure, num_examples=0)


def test_task_accuracy_is_of_the_named_tasks_examples():
    linear = nn.Linear(2, 2, bias=False).eval()
    with torch.no_grad():
        linear.weight.copy_(torch.eye(2))
    network = fip.Network.of(linear)
    inputs = torch.tensor([[2.0, 1.0], [1.0, 2.0], [3.0, 0.0], [0.0, 3.0]])
    tasks = {"all": fip.paths.Examples(inputs, torch.tensor([0, 1, 0, 0]))}
    assert fip.study.TaskAccuracy("all").measured_by(network, network.weights, tasks) == 0.75
    assert fip.study.TaskAccuracy("all", 2).measured_by(network, network.weights, tasks) == 1
    with pytest.raises(DataError, match="no task 'none' for TaskAccuracy; its tasks are: 'all'"):
        fip.study.TaskAccuracy("none").measured_by(network, network.weights, tasks)
    with pytest.raises(UsageError, match="num_examples must be at least 1, got 0"):
        fip.study.TaskAccuracy("all", 0)


def test_measures_and_kept_quantities_are_part_of_the_ids():
    usual = measured()
    others = [
        measured(measures={}),
        measured(measures={"other": "tests.quantities:size"}),
        measured(keeps={}),
        measured(keeps={**usual.keeps, "classes": fip.keeps.Outputs(budget=0.5)}),
    ]
    assert len({next(iter(each.specs)) for each in (usual, *others)}) == 5


def test_a_search_is_for_a_measure_and_its_results_have_it():
    search = searching_measures()
    assert search.first_objective == "size"
    with pytest.raises(UsageError, match="objective"):
        replace(search, objectives={"weight": "max"})


def test_agreement_is_the_fraction_of_equal_classes_and_the_kept_variance():
    base = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0], [1.0, 2.0]])
    other = torch.tensor([[3.0, 1.0], [0.0, 1.0], [4.0, 5.0], [torch.nan, 2.0]])
    # The third differs, and NaN agrees with nothing.
    assert Agreement().between(other, base) == 0.5
    assert Agreement(dim=-1).between(other, base) == 0.5
    assert Agreement().between(torch.tensor([[1.0], [-1.0]]), torch.tensor([[2.0], [3.0]])) == 0.5  # single logits
    values = torch.tensor([[1.0], [2.0], [3.0]])
    assert Agreement("values").between(values, values) == 1.0
    # Mean squares about the mean are 2, and the error of the last is 1.
    assert Agreement("values").between(values + torch.tensor([[0.0], [0.0], [1.0]]), values) == 0.5
