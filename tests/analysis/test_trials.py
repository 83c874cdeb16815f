"""Trials of a search: searched values as columns, and the Pareto front."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from fipray import analysis
from fipray.analysis.intervals import wilson
from fipray.analysis.trial_plots import positions
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


def test_figure_of_trials_shows_every_trial_in_every_panel_and_the_front(results):
    axes = analysis.plot_trials(results).axes
    # Two objectives against two fields, and against each other.
    assert len(axes) == 5
    trials = analysis.judged_trials(results).set_index("name")
    first = {line.get_label(): line for line in axes[0].get_lines()}
    assert set(first) == {"trial", "Pareto front", "given up or not finite"}
    front = trials.loc[["closest", "sturdiest"]]
    np.testing.assert_allclose(first["Pareto front"].get_xdata(), front["config.radius.tolerance"])
    np.testing.assert_allclose(first["Pareto front"].get_ydata(), front["functional_distance_held_out"])
    assert [label.get_text() for label in axes[1].get_xticklabels()] == ["natural"]
    stairs = axes[4].get_lines()[0]
    np.testing.assert_allclose(stairs.get_xydata(), [[0.1, 50], [0.3, 90]])
    assert stairs.get_drawstyle() == "steps-post"  # at distance 0.2 the front reaches what it reached at 0.1
    low, high = wilson(front["robust_accuracy"], 500)
    drawn = {x: (down, up) for (x, down), (_, up) in axes[4].collections[0].get_segments()}
    assert [drawn[x] for x in (0.1, 0.3)] == [pytest.approx((100 * a, 100 * b)) for a, b in zip(low, high, strict=True)]


def test_figure_of_trials_selects_fields_and_objectives(results):
    axes = analysis.plot_trials(results, objectives={"robust_accuracy": "max"}, names={"stepper": "how"}).axes
    assert [axis.get_xlabel() for axis in axes] == ["how"]
    with pytest.raises(UsageError, match=r"no searched fields 'damping'; there are: radius\.tolerance, stepper"):
        analysis.plot_trials(results, names=["damping"])
    with pytest.raises(UsageError, match="'min' or 'max'"):
        analysis.plot_trials(results, objectives={"robust_accuracy": "most"})


def test_values_of_a_searched_field_have_places_on_an_axis():
    numbers, names = positions(pd.Series([0.1, 0.25, 3.0]))
    assert (list(numbers), names) == ([0.1, 0.25, 3.0], None)
    choices, names = positions(pd.Series([0.999, 0.9, 0.99, 0.9, 0.9, 0.99, 0.999]))
    assert (list(choices), names) == ([2, 0, 1, 0, 0, 1, 2], ["0.9", "0.99", "0.999"])
    mixed, names = positions(pd.Series([{"kind": "natural"}, None, "text", True], dtype=object))
    assert names == ["natural", "null", "text", "true"]
    assert sorted(mixed) == [0, 1, 2, 3]
