"""Frames of committed results, weights by name, and representations of results."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from fipray import analysis
from fipray.errors import CorruptFileError, RecordsError, UsageError
from fipray.records import TABLES, Store
from fipray.records.tables import INT64
from tests.analysis.made_up import BASE, MANIFEST, NUM_PATHS, NUM_POINTS, write_made_up_study
from tests.records.rows import path_row, point_rows

ROOT = Path(__file__).parents[2]


def test_analysis_import_loads_no_torch_ray_or_matplotlib():
    code = "import sys; from fipray import analysis; sys.exit(str({'torch', 'ray', 'matplotlib'} & {*sys.modules}))"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert answer.stderr.strip() == "set()"


def test_frames_have_all_columns_and_types_even_when_empty(tmp_path):
    Store.create_or_open(tmp_path, MANIFEST)
    empty = analysis.load(tmp_path)
    write_made_up_study(tmp_path / "full", 2)
    full = analysis.load(tmp_path / "full")
    dtypes = {"string": "str", "int32": "int64", "int64": "int64", "double": "float64", "bool": "bool"}
    dtypes["list<element: bool not null>"] = "object"
    for name, table in TABLES.items():
        wanted = {column.name: dtypes[str(column.type)] for column in table.columns}
        wanted |= {column.name: "float64" for column in table.columns if column.optional and column.type == INT64}
        for results in (empty, full):
            frame = getattr(results, name)
            assert {column: str(dtype) for column, dtype in frame.dtypes.items()} == wanted
        assert getattr(empty, name).empty


def test_rows_are_sorted_by_name_and_step(results):
    assert list(results.paths["name"]) == [f"path-{number}" for number in range(NUM_PATHS)]
    assert list(results.points["step"]) == [25 * number for number in range(NUM_POINTS)] * NUM_PATHS
    assert list(results.points["name"].unique()) == list(results.paths["name"])


@pytest.mark.parametrize(
    "names", [["a-2", "a-10", "b-1"], ["s-0.5", "s-0.75", "s-0.9", "s-0.95"], ["1", "2", "10"], ["base", "path"]]
)
def test_numbers_in_names_sort_as_numbers(names):
    frame = pd.DataFrame({"name": sorted(names, reverse=True)}, dtype="str")
    assert list(frame.sort_values("name", key=analysis.results.in_order)["name"]) == names


def test_weights_are_found_by_name_id_and_base(results):
    np.testing.assert_array_equal(results.weights("base"), BASE["weights"])
    by_name = results.weights("path-3")
    assert by_name.shape == (5,)
    assert not np.array_equal(by_name, results.weights("path-4"))
    np.testing.assert_array_equal(by_name, results.weights("id3"))


@pytest.mark.parametrize("name", ["path-99", "all", ""])
def test_weights_of_an_unknown_name_are_refused_with_the_valid_ones(results, name):
    with pytest.raises(
        UsageError, match=rf"no weights named '{name}'; there are those of base, path-0, path-1, .*path-9"
    ):
        results.weights(name)


def test_weights_that_were_not_saved_are_refused(tmp_path):
    store = Store.create_or_open(tmp_path, MANIFEST)
    store.commit("id", "path", 1, {"paths": [path_row("id")], "points": point_rows("id")})
    results = analysis.load(tmp_path)
    for name in ("base", "sparse", "id"):
        with pytest.raises(UsageError, match=f"the weights of '{name}' were not saved"):
            results.weights(name)


def test_weights_of_an_ambiguous_name_are_refused(tmp_path):
    store = Store.create_or_open(tmp_path, MANIFEST)
    for id in ("one", "two"):
        store.commit(id, "path", 1, {"paths": [path_row(id, "twin")]})
    with pytest.raises(UsageError, match="2 paths are named 'twin'; use a path_id: one, two"):
        analysis.load(tmp_path).weights("twin")


def test_unfinished_study_shows_what_is_committed(tmp_path):
    write_made_up_study(tmp_path, 2, judged=False)
    store = Store.open(tmp_path)
    store.write_weights("id9", store.next_attempt("id9"), "end", BASE)  # begun and not committed
    (tmp_path / "points" / ".fipray-0123456789abcdef-id9.parquet").write_bytes(b"half")
    results = analysis.load(tmp_path)
    assert set(results.points["path_id"]) == set(results.paths["path_id"]) == {"id0", "id1"}
    said = f"Results of study 'made-up' in {tmp_path}: 2 paths (2 completed), {2 * NUM_POINTS} points"
    assert repr(results) == said


def test_unreadable_results_are_reported(tmp_path):
    with pytest.raises(RecordsError, match="not a results directory"):
        analysis.load(tmp_path / "nothing")
    write_made_up_study(tmp_path, 1)
    (tmp_path / "robustness" / "robust1.parquet").write_bytes(b"")
    with pytest.raises(
        CorruptFileError, match=r"robust1\.parquet is truncated or altered\. Delete commits/robust1\.json"
    ):
        analysis.load(tmp_path)


def test_repr_names_study_directory_and_rows_of_each_table(results):
    kinds = ", ".join(
        f"{count} {kind}" for kind, count in results.paths["outcome_kind"].value_counts(sort=False).items()
    )
    assert repr(results) == (
        f"Results of study 'made-up' in {results.address}: {NUM_PATHS} paths ({kinds}), "
        f"{NUM_PATHS * NUM_POINTS} points, {4 * (NUM_PATHS + 2)} robustness, {(NUM_PATHS + 2) ** 2} transfer, "
        f"{NUM_PATHS + 2} measures"
    )


def test_repr_of_empty_results_says_so(tmp_path):
    Store.create_or_open(tmp_path, MANIFEST)
    assert repr(analysis.load(tmp_path)) == f"Results of study 'made-up' in {tmp_path}: no rows"


def test_html_shows_the_rows_of_every_table(results):
    html = ElementTree.fromstring(results._repr_html_())
    assert "".join(html.find("caption").itertext()) == f"Results of study made-up in {results.address}"
    rows = [["".join(cell.itertext()) for cell in row] for row in html.find("tbody")]
    assert rows == [[name, str(len(results.frames[name])), table.description] for name, table in TABLES.items()]


def test_html_escapes_markup_and_control_characters(results):
    name = "<script>alert('&')</script>\x1b[31m"
    html = replace(results, address=name)._repr_html_()
    assert "<script>" not in html
    assert "\x1b" not in html
    shown = ElementTree.fromstring(html).find("caption/code").text
    assert shown == "<script>alert('&')</script>\\x1b[31m"
