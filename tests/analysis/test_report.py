"""Reports: numbers of the page are those of the frames, hostile names stay text, sizes and empty sections."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from fipray import analysis
from fipray.analysis.report import wording
from fipray.analysis.report.content import Column, Limits, Section, Table
from fipray.analysis.report.intervals import wilson
from fipray.analysis.report.page import page_of
from fipray.analysis.report.side import sides_of
from fipray.errors import RecordsError, UsageError
from fipray.records import Store
from fipray.records.attempt import Attempt
from tests.analysis.made_up import MANIFEST, write_made_up_study
from tests.records.rows import (
    STUDY,
    distance_row,
    measured_row,
    path_row,
    point_rows,
    robustness_row,
    task_row,
    trial_row,
    variant_row,
)


def sections_of(file: Path) -> dict[str, Any]:
    """Data of a page, by the IDs of its sections."""
    text = file.read_text(encoding="utf-8").partition('<script type="application/json" id="report-data">')[2]
    return {section["id"]: section for section in json.loads(text.partition("</script>")[0])}


def frame_of(table: dict[str, Any]) -> pd.DataFrame:
    """Table of a page as a frame."""

    def values(column: dict[str, Any]) -> list[Any]:
        if "codes" not in column:
            return column["values"]
        return [None if code < 0 else column["levels"][code] for code in column["codes"]]

    return pd.DataFrame({column["name"]: values(column) for column in table["columns"]})


def markup_of(file: Path) -> str:
    """HTML of a page without its styles and scripts, with entities as they stand."""
    return re.sub(r"(?s)<(script|style)\b.*?</\1>", "", file.read_text(encoding="utf-8"))


def store_at(directory: Path, **manifest: Any) -> Store:
    return Store.create_or_open(directory, {**MANIFEST, **manifest})


@pytest.fixture(scope="module")
def page(results, tmp_path_factory) -> Path:
    return analysis.report(results, tmp_path_factory.mktemp("report") / "report.html")


@pytest.mark.parametrize("correct", [0, 1, 37, 199, 200])
def test_wilson_intervals_are_those_of_scipy(correct):
    found = wilson(correct / 200, 200)
    exact = binomtest(correct, 200).proportion_ci(method="wilson")
    assert found == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_wilson_interval_at_full_accuracy_is_the_closed_form():
    z = 1.959963984540054
    assert wilson(1.0, 50) == pytest.approx((50 / (50 + z**2), 1.0), abs=1e-15)
    assert np.isnan(wilson([0.5, np.nan, 0.5], [0, 10, np.nan])).all()


@pytest.mark.parametrize(
    ("value", "text"),
    [(8 / 255, "8/255"), (np.float32(4 / 255), "4/255"), (0.1, "0.1"), (0.2, "0.2"), (1.0, "1"), (0, "0"),
     (128 / 255, "128/255"), (0.0317, "0.0317"), (1e300, "1e+300")],
)  # fmt: skip
def test_epsilon_is_a_fraction_of_255_where_it_is_a_multiple(value, text):
    assert wording.epsilon(float(value)) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0234, "0.0234 s"), (59, "59 s"), (125, "2 min 05 s"), (12000, "3 h 20 min")]
)
def test_durations_have_the_unit_that_suits_them(seconds, text):
    assert wording.duration(seconds) == text


def test_tables_of_the_page_equal_the_frames(results, page):
    sections = sections_of(page)
    networks, attacks = (frame_of(table) for table in sections["accuracy"]["tables"])
    summary = analysis.summary(results)
    assert list(networks["name"]) == list(summary["name"])
    assert list(networks["clean_accuracy"]) == list(summary["clean_accuracy"])
    worst = summary["robust_accuracy worst linf 0.1"]
    assert list(networks["robust_accuracy linf 0.1"]) == list(worst)
    rows = results.robustness
    assert sorted(attacks["robust_accuracy"]) == sorted(rows[rows["attack"] != "none"]["robust_accuracy"])
    paths = frame_of(sections["paths"]["tables"][0])
    for column in ("name", "objective_start", "objective_end", "functional_distance_held_out", "outcome"):
        assert list(paths[column]) == list(results.paths[column]), column
    transfer = frame_of(sections["transfer"]["tables"][0])
    assert list(transfer["accuracy"]) == list(results.transfer["accuracy"])
    assert list(frame_of(sections["calibration"]["tables"][0])["nll"]) == list(results.measures["nll"])


def test_intervals_of_the_page_are_wilson_intervals_of_the_examples(results, page):
    networks = sections_of(page)["accuracy"]["tables"][0]
    clean, robust = (
        column for column in networks["columns"] if column["name"] in ("clean_accuracy", "robust_accuracy linf 0.1")
    )
    for column, size in ((clean, 10_000), (robust, 500)):
        low, high = wilson(column["values"], [size] * len(column["values"]))
        np.testing.assert_allclose(column["low"], low, atol=1e-6)
        np.testing.assert_allclose(column["high"], high, atol=1e-6)


def test_points_of_the_chart_are_those_of_the_paths(results, page):
    (chart,) = sections_of(page)["paths"]["charts"]
    data = chart["data"]
    points = results.points
    assert len(data["step"]) == len(points)
    assert data["names"] != []
    distance = next(panel for panel in data["panels"] if panel["label"].startswith("functional distance"))
    found = pd.DataFrame({"name": [data["names"][line] for line in data["line"]], "step": data["step"]})
    found["y"] = distance["y"]
    joined = found.merge(points, on=["name", "step"])
    assert len(joined) == len(points)
    np.testing.assert_allclose(joined["y"], joined["functional_distance_held_out"], rtol=1e-4)


def test_headline_and_readings_have_the_numbers(results, page):
    text = unescape(markup_of(page)).replace("\u00a0", " ")
    best = results.robustness.query("attack == 'worst'").sort_values("robust_accuracy").iloc[-1]
    low, high = wilson(best["robust_accuracy"], 500)
    expected = f"{100 * best['robust_accuracy']:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of 500 examples"
    assert f"is that of {best['name']}: {expected}" in text
    stopped = (results.paths["outcome_kind"] == "stopped").sum()
    assert f"{10 - stopped} of 10 paths completed, {stopped} stopped" in text


HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "a\x1b[31m\u202eb",
    "{{ 7 * 7 }}",
    "\"&'",
]


def write_hostile(directory: Path) -> None:
    store = store_at(directory, parameters={HOSTILE[1]: HOSTILE[0]})
    attempts = []
    for number, name in enumerate(HOSTILE):
        id = f"id{number}"
        path = path_row(id, name, outcome=name, warnings=name, objective=HOSTILE[0], host=name)
        path["spec_json"] = json.dumps({name: {name: name}})
        tables = {"paths": [path], "points": point_rows(id, name), "tasks": [task_row(id, name, task=HOSTILE[1])]}
        tables["point_measures"] = [measured_row(id, name=name, measure=HOSTILE[1])]
        attempts.append(Attempt(id, "path", 1, tables))
        rows = [robustness_row(f"robust{number}", name, "path", attack) for attack in (HOSTILE[1], "worst")]
        attempts.append(Attempt(f"robust{number}", "robustness", 1, {"robustness": rows}))
    store.commit_all(attempts)


def test_hostile_names_stay_text_in_markup_and_data(tmp_path):
    write_hostile(tmp_path / "results")
    file = analysis.report(analysis.load(tmp_path / "results"), tmp_path / "report.html")
    content, markup = file.read_text(encoding="utf-8"), markup_of(file)
    assert "<script>alert" not in content
    assert "<img" not in content
    assert "\x1b" not in content
    assert "\u202e" not in content
    assert content.count("<script") == content.count("</script>") == 1 + 6
    assert "49" not in markup.partition("<main>")[2].partition("Specs and versions")[0]
    names = set(frame_of(sections_of(file)["paths"]["tables"][0])["name"])
    assert names == {HOSTILE[0], HOSTILE[1], "a\\x1b[31m\\u202eb", HOSTILE[3], HOSTILE[4]}


def test_page_forbids_every_connection_and_names_each_script(page):
    content = page.read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', content)
    assert policy
    assert "default-src 'none'" in policy[1]
    assert policy[1].count("sha256-") == 6
    assert re.findall(r'(?:src|href)="(?!#|data:,)', markup_of(page)) == []


def test_sections_without_rows_are_left_out_and_named(tmp_path):
    write_made_up_study(tmp_path / "results", 2, judged=False)
    file = analysis.report(analysis.load(tmp_path / "results"), tmp_path / "report.html")
    assert set(sections_of(file)) == {"headline", "accuracy", "paths", "cost", "specs"}
    left_out = re.search(r'id="left-out">([^<]*)<', file.read_text(encoding="utf-8"))
    assert left_out
    for missing in ("transfer accuracies", "calibration", "trials of a search", "accuracies on tasks"):
        assert missing in left_out[1]
    assert "No network was attacked" in markup_of(file)


def test_directory_without_any_result_is_reported_as_such(tmp_path):
    store_at(tmp_path / "results")
    file = analysis.report(analysis.load(tmp_path / "results"), tmp_path / "report.html")
    assert set(sections_of(file)) == {"headline", "specs"}
    assert "no path is committed yet" in markup_of(file)


def test_many_tables_of_one_path(tmp_path):
    """Searches, tasks, variants, measures and kept quantities, several epsilons, and numbers that are missing."""
    store = store_at(tmp_path / "results", objectives={"functional_distance_held_out": "min", "viscosity": "max"})
    attempts = []
    for number in range(3):
        id, name = f"id{number}", f"trial-{number}"
        path = path_row(id, name, clean_accuracy=None, functional_distance_held_out=0.1 * number)
        tables = {
            "paths": [path],
            "points": point_rows(id, name, functional_distance_held_out=None, clean_accuracy=None),
            "trials": [trial_row(id, name, config_json=json.dumps({"radius": 0.1, "stepper": {"kind": "natural"}}))],
            "variants": [variant_row(id, name, network=f"{name}@0.5", clean_accuracy=0.9 + 0.01 * number)],
            "tasks": [task_row(id, name), task_row(id, name, task="second", task_number=2, learned=False)],
            "point_measures": [
                measured_row(id, name=name, measure=m, step=s) for m in ("viscosity", "b") for s in (0, 3)
            ],
            "point_distances": [distance_row(id, name=name)],
        }
        attempts.append(Attempt(id, "path", 1, tables))
        rows = [
            robustness_row(f"r{number}{attack}{bound:g}", f"{name}@0.5", "variant", attack, epsilon=bound)
            for attack in ("fgsm", "worst")
            for bound in (8 / 255, 0.1)
        ]
        attempts += [Attempt(row["robustness_id"], "robustness", 1, {"robustness": [row]}) for row in rows]
    store.commit_all(attempts)
    results = analysis.load(tmp_path / "results")
    sections = sections_of(analysis.report(results, tmp_path / "report.html"))
    assert {"search", "tasks", "sparsity", "measures", "front"} <= set(sections)
    assert [chart["title"] for chart in sections["accuracy"]["charts"]] == [
        "Clean and robust accuracy at ℓ∞, ε\u00a0=\u00a08/255",
        "Clean and robust accuracy at ℓ∞, ε\u00a0=\u00a00.1",
    ]
    trials = frame_of(sections["search"]["tables"][0])
    assert list(trials["on_front"]) == ["yes", "no", "no"]
    assert list(trials["config.stepper"]) == ["natural"] * 3
    assert len(sections["tasks"]["charts"]) == 3
    assert [len(chart["data"]["panels"]) for chart in sections["measures"]["charts"]] == [2, 1]
    variants = sections["sparsity"]["charts"][0]["data"]
    assert variants["ys"] == pytest.approx([0.9, 0.91, 0.92])


def test_directories_stand_side_by_side_with_labels_that_differ(tmp_path):
    for place in ("a/results", "b/results"):
        write_made_up_study(tmp_path / place, 2)
    both = [analysis.load(tmp_path / place) for place in ("a/results", "b/results")]
    sections = sections_of(analysis.report(both, tmp_path / "report.html"))
    networks = frame_of(sections["accuracy"]["tables"][0])
    assert set(networks["results"]) == {"a/results", "b/results"}
    assert [title for title, _ in sections["headline"]["groups"]] == ["a/results", "b/results", "Side by side"]
    assert {chart["data"]["series"][0]["name"] for chart in sections["front"]["charts"]} == {"a/results"}
    with pytest.raises(UsageError, match="given twice"):
        analysis.report([both[0], both[0]], tmp_path / "report.html")
    with pytest.raises(UsageError, match="at least one results directory"):
        analysis.report([], tmp_path / "report.html")


def test_running_study_with_a_missing_parent_is_reported(tmp_path):
    store = store_at(tmp_path / "results")
    path = path_row("id1", "second", start="first", parent_path_id="id0")
    tables = {"paths": [path], "points": point_rows("id1", "second"), "tasks": [task_row("id1", "second")]}
    store.commit("id1", "path", 1, tables)
    sections = sections_of(analysis.report(analysis.load(tmp_path / "results"), tmp_path / "report.html"))
    assert sections["tasks"]["charts"] == []
    assert "no forgetting" in sections["tasks"]["sentences"][0]


def test_large_page_is_cut_and_says_so(results, page, tmp_path):
    file = tmp_path / "report.html"
    file.write_bytes(page_of(sides_of([results]), 1))  # the smallest that there is
    assert file.stat().st_size < page.stat().st_size
    chart = sections_of(file)["paths"]["charts"][0]
    assert len(chart["data"]["step"]) < 400
    assert "are drawn, evenly along each path" in chart["reading"]
    ends = {(line, step) for line, step in zip(chart["data"]["line"], chart["data"]["step"], strict=True)}
    assert {(line, step) for line in range(10) for step in (0, 975)} <= ends


def test_columns_without_values_are_left_out_and_infinity_is_kept():
    columns = [Column("a", [1.0, float("inf")], "number"), Column("b", [None, None], "number"), Column("c", ["", ""])]
    data = Table("t", "T", columns).data(Limits(rows=1))
    assert [column["name"] for column in data["columns"]] == ["a"]
    assert data["num_rows"] == 2
    assert data["columns"][0]["values"] == [1.0]
    assert Section("id", "title").charts == ()


@pytest.mark.parametrize(
    ("name", "message"), [("report.pdf", "suffix .pdf"), ("report", "no suffix"), ("", "empty|name")]
)
def test_wrong_file_is_refused(results, tmp_path, name, message):
    with pytest.raises(UsageError, match=message):
        analysis.report(results, str(tmp_path / name) if name else "")


def test_directory_in_place_of_the_file_is_refused(results, tmp_path):
    (tmp_path / "x.html").mkdir()
    with pytest.raises(UsageError, match="is a directory"):
        analysis.report(results, tmp_path / "x.html")


def test_report_of_a_file_below_a_file_is_refused(results, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(RecordsError):
        analysis.report(results, tmp_path / "taken" / "report.html")


def test_study_of_made_up_rows_is_what_the_page_names(page):
    facts = dict(frame_of(sections_of(page)["specs"]["tables"][0]).itertuples(index=False, name=None))
    assert facts["study"] == STUDY
    assert facts["study_id"] == MANIFEST["study_id"]
    assert facts["parameter members"] == "10"
