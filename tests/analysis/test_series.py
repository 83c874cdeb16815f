"""Continual learning along chains of paths: accuracy matrix, measures and figures."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fipray import analysis
from fipray.errors import UsageError
from fipray.records import Store
from tests.records.rows import STUDY, path_row, point_rows, task_row

# R_ij: when "one" (the base's), "two", "three" had been learned; and when zeros had been made before the last of them
ACCURACIES = {
    "base": (0.9, 0.5, 0.4),
    "learns-two": (0.8, 0.95, 0.6),
    "sparse": (0.82, 0.9, 0.5),
    "learns-three": (0.7, 0.9, 0.99),
    "aside": (0.9, 0.55, 0.4),
}
STARTS = {
    "learns-two": "base",
    "sparse": "learns-two",
    "learns-three": "sparse",
    "aside": "base",
}
LEARNED = {"learns-two": "two", "learns-three": "three"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> analysis.Results:
    directory = tmp_path_factory.mktemp("series") / "results"
    write(directory)
    return analysis.load(directory)


def write(directory: Path) -> None:
    store = Store.create_or_open(directory, {"study": STUDY, "study_id": "0123456789abcdef", "parameters": {}})
    for name, start in STARTS.items():
        attempt = store.next_attempt(f"id-{name}")
        file, sha256 = store.write_weights(f"id-{name}", attempt, "end", {"weights": np.ones(5, np.float32)})
        path = path_row(f"id-{name}", name, attempt, weights_file=file, weights_sha256=sha256)
        path |= {
            "start": start,
            "parent_path_id": None if start == "base" else f"id-{start}",
            "sparsity": 0.9 if name in ("sparse", "learns-three") else 0.0,
        }
        tasks = [
            task_row(
                f"id-{name}",
                name,
                attempt,
                task=task,
                task_number=number + 1,
                learned=LEARNED.get(name) == task,
                accuracy_at_start=ACCURACIES[start][number],
                accuracy=ACCURACIES[name][number],
            )
            for number, task in enumerate(("one", "two", "three"))
        ]
        tables = {"paths": [path], "points": point_rows(f"id-{name}", name, attempt, 2), "tasks": tasks}
        store.commit(f"id-{name}", "path", attempt, tables)


def test_lineage_leads_from_the_base_to_the_path(results):
    for end in ("learns-three", "id-learns-three"):
        assert analysis.lineage(results, end)["name"].tolist() == ["learns-two", "sparse", "learns-three"]
    assert analysis.lineage(results, "aside")["name"].tolist() == ["aside"]
    with pytest.raises(UsageError, match=r"0 paths are named 'nobody'; give one of: .*aside"):
        analysis.lineage(results, "nobody")


def test_series_has_a_row_per_network_and_a_column_per_task(results):
    series = analysis.task_series(results, "learns-three")
    expected = pd.DataFrame(
        [ACCURACIES[name] for name in ("base", "learns-two", "sparse", "learns-three")],
        index=pd.Index(["base", "learns-two", "sparse", "learns-three"], name="network"),
        columns=pd.Index(["one", "two", "three"], name="task"),
    )
    pd.testing.assert_frame_equal(series.accuracies, expected)
    assert series.learned_at == {"one": "base", "two": "learns-two", "three": "learns-three"}


def test_series_measures_equal_their_published_definitions(results):
    series = analysis.task_series(results, "learns-three")
    assert series.average_accuracy == pytest.approx((0.7 + 0.9 + 0.99) / 3)
    assert series.forgetting == pytest.approx(((0.9 - 0.7) + (0.95 - 0.9)) / 2)
    assert series.backward_transfer == pytest.approx(((0.7 - 0.9) + (0.9 - 0.95)) / 2)
    assert series.forward_transfer(0.5) == pytest.approx(((0.5 - 0.5) + (0.5 - 0.5)) / 2)
    untrained = pd.Series({"one": 0.0, "two": 0.1, "three": 0.2})
    assert series.forward_transfer(untrained) == pytest.approx(((0.5 - 0.1) + (0.5 - 0.2)) / 2)


def test_series_of_a_shorter_chain_covers_its_own_tasks(results):
    series = analysis.task_series(results, "learns-two")
    assert series.learned_at == {"one": "base", "two": "learns-two"}
    assert series.average_accuracy == pytest.approx((0.8 + 0.95) / 2)
    assert series.forgetting == pytest.approx(0.1)


def test_series_takes_the_known_tasks_of_the_base(results):
    series = analysis.task_series(results, "aside", known=("one", "two"))
    assert series.average_accuracy == pytest.approx((0.9 + 0.55) / 2)
    assert series.forgetting == pytest.approx(-0.025)
    assert np.isnan(series.forward_transfer(0.5))
    with pytest.raises(UsageError, match="no tasks four; the tasks are: one, two, three"):
        analysis.task_series(results, "aside", known=("four",))


def test_series_without_tasks_is_refused(tmp_path):
    store = Store.create_or_open(tmp_path, {"study": STUDY, "study_id": "0123456789abcdef", "parameters": {}})
    file, sha256 = store.write_weights("id", 1, "end", {"weights": np.ones(5, np.float32)})
    row = path_row("id", "one", 1, weights_file=file, weights_sha256=sha256)
    store.commit("id", "path", 1, {"paths": [row]})
    with pytest.raises(UsageError, match="no accuracies on tasks"):
        analysis.task_series(analysis.load(tmp_path), "one")


def test_tasks_figure_shows_all_accuracies_and_frames_learned_tasks(results):
    figure = analysis.plot_tasks(results, "learns-three")
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.texts] == [
        f"{100 * value:.0f}" for name in ("base", "learns-two", "sparse", "learns-three") for value in ACCURACIES[name]
    ]
    assert [patch.get_xy() for patch in axis.patches] == [(-0.5, -0.5), (0.5, 0.5), (1.5, 2.5)]
    assert axis.get_title() == "average accuracy 86.3 %, forgetting 12.5 %"


def test_learning_figure_has_a_line_per_chain(results):
    figure = analysis.plot_learning(results, ["learns-three"])
    lines = figure.axes[0].lines
    mean = lines[-1].get_ydata()
    assert np.asarray(mean) == pytest.approx([90, (80 + 95) / 2, (82 + 90) / 2, (70 + 90 + 99) / 3])
    assert np.isnan(np.asarray(lines[1].get_ydata(), dtype=float)).tolist() == [True, False, False, False]
    with pytest.raises(UsageError, match="no chains"):
        analysis.plot_learning(results, [])


def test_lineage_figure_places_networks_right_of_their_parent(results):
    figure = analysis.plot_lineage(results)
    axis = figure.axes[0]
    places = {text.get_text().split("\n")[0]: text.xy for text in axis.texts if text.get_text()}
    assert set(places) == {"base", *STARTS}
    for name, start in STARTS.items():
        assert places[name][0] == places[start][0] + 1
    assert len({tuple(place) for place in places.values()}) == len(places)
    labels = [text.get_text() for text in axis.texts]
    assert "learns-three\n70.0 / 90.0 / 99.0 %, 90% zeros" in labels


def test_summary_of_chains_begins_with_the_base(results):
    assert analysis.summary(results)["name"].tolist()[0] == "base"


def test_summary_reports_learned_tasks_at_ends_of_chains(results, capsys):
    analysis.print_summary(results)
    said = " ".join(capsys.readouterr().out.split())  # wherever lines break
    assert "learns-three: 3 tasks learned, average accuracy 86.3 %, forgetting 12.5 %" in said
    assert "to their path's start" in said
    assert "aside:" not in said
