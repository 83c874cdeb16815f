"""Warnings about paths that made something worse: in rows, in summaries of jobs and in the report of a directory."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import fipray as fip
from fipray import analysis
from fipray.errors import RunError
from fipray.execution import LocalRunner
from fipray.execution.kinds.path import summarize
from fipray.execution.path_rows import accuracy_collapse, end_columns
from fipray.paths import Outcome, PathPoint, Proposal, WeightPath
from fipray.study.tensors import accuracy
from tests.studies import data, module


def points(*accuracies: float | None) -> list[PathPoint]:
    """Points ten steps apart, at which the objective falls from 1.0 by 0.1 each."""
    return [
        PathPoint(
            10 * place, torch.zeros(2), 0.1, 0.0, 0.0, 0.0, 1.0 - place / 10, 0.0,
            {} if fraction is None else {"clean_accuracy": fraction},
        )
        for place, fraction in enumerate(accuracies)
    ]  # fmt: skip


class TestAccuracyCollapse:
    @pytest.mark.parametrize(
        ("accuracies", "num_tests", "step", "sentence"),
        [
            ((0.921, 0.90, 0.43, 0.40), 1000, 20, "clean accuracy fell from 92.1 % to 43.0 % by step 20"),
            ((0.9, 0.4, 0.8), 99, 10, "clean accuracy fell from 90.0 % to 40.0 % by step 10, and recovered to 80.0 %"),
            ((1.0, 0.0), 1, 10, "clean accuracy fell from 100.0 % to 0.0 % by step 10"),
        ],
    )  # fmt: skip
    def test_collapse_is_reported_with_its_first_step_and_values(self, accuracies, num_tests, step, sentence):
        assert accuracy_collapse(points(*accuracies), num_tests) == (step, sentence)

    @pytest.mark.parametrize(
        ("accuracies", "num_tests"),
        [
            ((0.9, 0.81, 0.805), 10**6),  # less than 10 points
            ((0.9, 0.95, 0.99), 10**6),
            ((0.9, 0.6), 20),  # four standard errors of the difference are 52 points
            ((None, None), 0),
            ((0.9,), 100),
        ],
    )
    def test_smaller_or_chance_falls_are_not_reported(self, accuracies, num_tests):
        assert accuracy_collapse(points(*accuracies), num_tests) is None

    def test_bounds_are_ten_points_and_four_standard_errors(self):
        """With 400 examples, from 0.5 to 0.36: sqrt((0.25 + 0.2304) / 400) = 0.03466, times four is 0.1386 < 0.14."""
        assert accuracy_collapse(points(0.5, 0.36), 400)
        assert not accuracy_collapse(points(0.5, 0.3625), 400)
        assert accuracy_collapse(points(1.0, 0.8999), 10**6)
        assert not accuracy_collapse(points(1.0, 0.9001), 10**6)

    def test_end_columns_report_it_beside_the_objective(self):
        path = WeightPath(tuple(points(0.9, 0.3)), Outcome("stuck", "no way; objective 1.00 -> 0.900: better"))
        assert end_columns(path, fip.objectives.GradientDiversity(), 1000) == {
            "outcome": "no way; objective 1.00 -> 0.900: better; clean accuracy fell from 90.0 % to 30.0 % by step 10",
            "outcome_kind": "stuck",
            "objective_start": 1.0,
            "objective_end": 0.9,
            "accuracy_collapsed_step": 10,
            "warnings": "clean accuracy fell from 90.0 % to 30.0 % by step 10",
        }


@dataclass(frozen=True)
class Away:
    """Stepper that takes long random steps, which increase |w|^2 and ruin the network."""

    broken_at: int = 0

    def begin(self, problem):
        return {"count": torch.zeros((), dtype=torch.int64)}

    def propose(self, situation, state):
        count = int(state["count"]) + 1
        step = situation.batch.normal(len(situation.weights))
        step = step * (4 * float(situation.weights.norm()) / float(step.norm()))
        if count == self.broken_at:
            step = step * math.nan
        return Proposal(step, 0.0, {"count": torch.tensor(count)})


@dataclass(frozen=True)
class Length:
    """Objective `|w|^2`, NaN where that exceeds `at` times |w0|^2."""

    at: float = math.inf

    def value(self, problem, weights, batch):
        square = weights.square().sum()
        return square * math.nan if float(square.detach()) > self.at * problem.length**2 else square


def study(*paths: fip.PathSpec) -> fip.Study:
    given = data()
    network = module()
    labels = network(torch.from_numpy(given.test_inputs)).argmax(1).numpy()  # so that it classifies all correctly
    return fip.Study("warned", network, replace(given, test_labels=labels), paths)


def path(name: str, objective: object, stepper: object, **changes: object) -> fip.PathSpec:
    usual = {"radius": fip.radii.Scheduled(0.1), "num_steps": 6, "batch_size": 30, "save_at": fip.SaveAt(6)}
    return fip.PathSpec(name, objective, stepper=stepper, **{**usual, **changes})  # type: ignore[arg-type]


class Summaries:
    """Listener that records the summary of each job."""

    def __init__(self) -> None:
        self.by_label: dict[str, str] = {}

    def finished(self, job, sentence, seconds):
        self.by_label[job.label] = sentence

    def __getattr__(self, name):
        return lambda *_: None


@pytest.fixture(scope="module")
def warned(tmp_path_factory):
    directory = tmp_path_factory.mktemp("warned")
    summaries = Summaries()
    made = study(
        path("lost", Length(), Away()),
        path("fine", fip.objectives.Sparsify(0.2), fip.steppers.Natural(), radius=fip.radii.Adaptive()),
        path("walks", fip.objectives.RandomWalk(), fip.steppers.Natural(), radius=fip.radii.Adaptive(tolerance=0.01)),
        path("broken-step", Length(), Away(broken_at=3)),
        path("broken-objective", Length(at=2.0), Away()),
    )
    LocalRunner().run(made, directory, summaries)  # type: ignore[arg-type]
    return analysis.load(directory), summaries, directory


class TestPathWarnings:
    def test_path_that_lost_objective_and_accuracy_has_warnings_everywhere(self, warned):
        results, summaries, _ = warned
        row = results.paths.set_index("name").loc["lost"]
        own = results.points[results.points["name"] == "lost"].set_index("step")
        first, step = own["clean_accuracy"].iloc[0], int(row["accuracy_collapsed_step"])
        fell = f"clean accuracy fell from 100.0 % to {100 * own.loc[step, 'clean_accuracy']:.1f} % by step {step}"
        assert first == 1.0
        assert (row["objective_start"], row["objective_end"]) == (
            own["objective_value"].iloc[0],
            row["objective_value"],
        )
        worse = f"objective {row['objective_start']:#.3g} -> {row['objective_end']:#.3g}: worse"
        assert row["warnings"].startswith(f"{worse}; {fell}")
        assert row["outcome"] == f"all 6 steps were walked; {row['warnings']}"
        assert row["outcome_kind"] == "completed"
        assert summaries.by_label["path lost"].startswith(f"{row['outcome']}; functional distance")

    def test_path_that_improved_or_has_no_better_has_no_warnings(self, warned):
        rows = warned[0].paths.set_index("name")
        for name in ("fine", "walks"):
            assert rows.loc[name, "warnings"] == ""
            assert math.isnan(rows.loc[name, "accuracy_collapsed_step"])
        assert rows.loc["fine", "outcome"].endswith(" -> 0.00: better")
        assert rows.loc["walks", "outcome"] == "all 6 steps were walked"

    def test_path_that_was_not_finite_ends_before_and_has_finite_rows(self, warned):
        results, _, _ = warned
        rows = results.paths.set_index("name")
        for name in ("broken-step", "broken-objective"):
            assert rows.loc[name, "outcome_kind"] == "not finite"
            end = rows.loc[name, "num_steps"]
            assert f"so the path ended at step {end}, its last finite point" in rows.loc[name, "outcome"]
            own = results.points[results.points["name"] == name]
            measured = own.select_dtypes("number").drop(columns="radius")
            assert np.isfinite(measured.to_numpy()).all()
            assert own["step"].max() == end
            assert np.isfinite(results.weights(name)).all()
        assert rows.loc["broken-step", "num_steps"] == 2

    def test_show_lists_warnings_below_the_table(self, warned, monkeypatch, capsys):
        from fipray.terminal import print_summary

        monkeypatch.setenv("COLUMNS", "300")
        print_summary(str(warned[2]))
        lines = capsys.readouterr().out.splitlines()
        rows = warned[0].paths.set_index("name")
        assert f"lost: {rows.loc['lost', 'warnings']}" in [line.rstrip() for line in lines]
        assert not [line for line in lines if line.startswith(("fine:", "walks:"))]
        assert any("not finite" in line or "was nan" in line for line in lines if line.startswith("broken-step"))


def test_objective_of_nan_at_the_start_fails_its_path_alone(tmp_path):
    made = study(
        path("nan", Length(at=0.0), fip.steppers.Natural()),
        path("fine", fip.objectives.Sparsify(0.2), fip.steppers.Natural()),
    )
    with pytest.raises(RunError, match="path nan: the objective was nan at the path's start"):
        LocalRunner().run(made, tmp_path)
    assert list(analysis.load(tmp_path).paths["name"]) == ["fine"]


def test_outputs_of_nan_are_wrong():
    """Although `argmax` returns the index of the first NaN."""
    inputs = torch.tensor([[1.0, 0.0], [math.nan, 0.0], [0.0, 1.0]])

    class Identity:
        def outputs(self, weights, inputs):
            return inputs

    examples = fip.Examples(inputs, torch.tensor([0, 0, 1]))
    assert accuracy(Identity(), torch.zeros(1), examples) == pytest.approx(2 / 3)  # type: ignore[arg-type]


def test_summary_of_a_path_is_its_outcome_and_measures():
    row = {"outcome": "stuck", "clean_accuracy": 0.5, "functional_distance_held_out": 0.25, "sparsity": 0.0}
    assert summarize({"paths": [row]}) == "stuck; functional distance 0.250, sparsity 0.000, clean accuracy 50.00%"
