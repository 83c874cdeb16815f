"""Trials of a search: searched values as columns, and the Pareto front."""

from __future__ import annotations

import math

import pytest

from fipray import analysis
from fipray.errors import UsageError
from fipray.records import Store
from tests.analysis.made_up import MANIFEST
from tests.records.rows import path_row, point_rows, robustness_row, trial_row

OBJECTIVES = {"functional_distance_held_out": "min", "robust_accuracy": "max"}
ENDS = {  # distance, robust accuracy, outcome
    "closest": (0.1, 0.5, "completed"),
    "beaten": (0.2, 0.4, "completed"),
    "sturdiest": (0.3, 0.9, "stopped"),
    "hardly-begun": (0.01, None, "given up"),
    "broken": (0.0, 0.95, "not finite"),
}


@pytest.fixture
def results(tmp_path):
    store = Store.create_or_open(tmp_path, {**MANIFEST, "objectives": OBJECTIVES})
    for number, (name, (distance, robust, outcome)) in enumerate(ENDS.items()):
        id, shared = f"id{number}", {"outcome_kind": outcome}
        config = f'{{"radius.tolerance":0.{number},"stepper":{{"kind":"natural"}}}}'
        tables = {
            "paths": [path_row(id, name, functional_distance_held_out=distance, **shared)],
            "points": point_rows(id, name),
            "trials": [trial_row(id, name, config_json=config, **shared)],
        }
        store.commit(id, "PathSpec", 1, tables)
        if robust is not None:
            rows = [robustness_row(f"r{number}", name, "path", "worst", robust_accuracy=robust)]
            store.commit(f"r{number}", "RobustnessSpec", 1, {"robustness": rows})
    return analysis.load(tmp_path)


def test_trials_have_a_column_per_searched_field(results):
    trials = results.trials.set_index("name")
    assert trials["config.radius.tolerance"].to_dict() == dict(zip(ENDS, (0.0, 0.1, 0.2, 0.3, 0.4), strict=True))
    assert trials.loc["closest", "config.stepper"] == {"kind": "natural"}


def test_trials_are_joined_with_measures_at_their_ends(results):
    trials = analysis.judged_trials(results).set_index("name")
    assert trials.loc["closest", ["functional_distance_held_out", "robust_accuracy"]].tolist() == [0.1, 0.5]
    assert math.isnan(trials.loc["hardly-begun", "robust_accuracy"])


def test_front_of_trials_is_sorted_by_the_first_objective(results):
    assert list(results.pareto()["name"]) == ["closest", "sturdiest"]
    assert list(results.pareto({"robust_accuracy": "max"})["name"]) == ["sturdiest"]
    assert list(results.pareto({"functional_distance_held_out": "min"})["name"]) == ["closest"]  # and not hardly-begun


def test_summary_of_a_search_ends_with_the_front(results, capsys):
    analysis.print_summary(results)
    shown = capsys.readouterr().out
    front = shown[shown.index("front of 5 trials (1 given up, 1 not finite)") :]
    assert "closest" in front
    assert "beaten" not in front


def test_front_of_an_unknown_objective_or_of_a_study_is_refused(results, tmp_path):
    with pytest.raises(UsageError, match="no column 'distance'; they have: "):
        results.pareto({"distance": "min"})
    Store.create_or_open(tmp_path / "study", MANIFEST)
    with pytest.raises(UsageError, match="which is not a search"):
        analysis.load(tmp_path / "study").pareto()
