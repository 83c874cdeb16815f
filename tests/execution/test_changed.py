"""A run into a directory whose results were made by other code."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

import fipray as fip
from fipray import analysis
from fipray.execution import LocalRunner
from fipray.records import Store, compact
from tests import studies

SIGN = 1.0


@dataclass(frozen=True)
class Signed:
    """The weights' sum of squares, up or down."""

    def value(self, problem, weights, batch):
        return SIGN * weights.square().sum()


def made() -> fip.Study:
    settings = {"num_steps": 2, "batch_size": 50}
    paths = (
        fip.PathSpec("own", Signed(), **settings),
        fip.PathSpec("after", fip.objectives.GradientDiversity(), start="own", **settings),
        fip.PathSpec("other", fip.objectives.GradientDiversity(), **settings),
    )
    evaluation = fip.Evaluation(fip.ThreatModel("linf", 0.05), (fip.attacks.FGSM(),), num_examples=20)
    return fip.Study("s", studies.module(), studies.data(), paths, evaluation=evaluation)


def values(directory) -> dict[str, float]:
    points = analysis.load(directory).points
    return points[points["step"] == 0].set_index("name")["objective_value"].to_dict()


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """Made with SIGN = 1; then SIGN is -1."""
    monkeypatch.setattr(f"{__name__}.SIGN", 1.0)
    LocalRunner().run(made(), tmp_path / "results")
    monkeypatch.setattr(f"{__name__}.SIGN", -1.0)
    return tmp_path / "results"


def test_a_run_stops_and_names_what_changed_and_the_ways_out(directory):
    before = values(directory)
    with pytest.raises(fip.errors.UsageError) as refused:
        LocalRunner().run(made(), directory)
    said = str(refused.value)
    assert "was made by other code: SIGN in test_changed.py changed since" in said
    assert "--changed redo" in said
    assert "another directory" in said
    assert values(directory) == before


def test_the_same_study_object_sees_the_change_too(tmp_path, monkeypatch):
    study = made()
    LocalRunner().run(study, tmp_path)
    monkeypatch.setattr(f"{__name__}.SIGN", -1.0)
    with pytest.raises(fip.errors.UsageError, match="was made by other code"):
        LocalRunner().run(study, tmp_path)


@pytest.mark.parametrize("is_compacted", [False, True])
def test_redo_does_again_what_depends_on_the_code_and_nothing_else(directory, is_compacted):
    before, rows = values(directory), analysis.load(directory).paths.set_index("name")
    if is_compacted:
        compact(Store.open(directory))
    LocalRunner().run(made(), directory, changed="redo")
    assert values(directory)["own"] == -before["own"]
    now = analysis.load(directory)
    paths = now.paths.set_index("name")
    assert sorted(paths.index) == ["after", "other", "own"]
    assert paths.loc["other", "path_id"] == rows.loc["other", "path_id"]
    assert set(paths["path_id"]) == set(made().path_ids.values())
    assert sorted(now.robustness.query("attack == 'worst'")["name"]) == ["after", "base", "other", "own"]
    assert not now.points.duplicated(["name", "step"]).any()
    Store.open(directory).verify()
    files = {file: file.stat().st_mtime_ns for file in directory.rglob("*.parquet")}
    LocalRunner().run(made(), directory)  # nothing is left to do, and the code is that of the directory
    assert {file: file.stat().st_mtime_ns for file in directory.rglob("*.parquet")} == files


def test_redo_and_back_again_ends_where_it_began(directory, monkeypatch):
    before = values(directory)
    compact(Store.open(directory))
    for sign in (-1.0, 1.0):
        monkeypatch.setattr(f"{__name__}.SIGN", sign)
        LocalRunner().run(made(), directory, changed="redo")
    assert values(directory) == before
    assert len(Store.open(directory).committed()) == len(made().specs)


def test_a_reader_that_is_open_sees_the_new_rows_once(directory):
    reader = Store.open(directory)
    assert reader.read_table("paths").num_rows == 3
    LocalRunner().run(made(), directory, changed="redo")
    names = reader.read_table("paths")["name"].to_pylist()
    assert sorted(names) == ["after", "other", "own"]


def test_an_unknown_way_out_is_refused(tmp_path):
    with pytest.raises(fip.errors.UsageError, match="changed is 'again'; expected 'stop' or 'redo'"):
        LocalRunner().run(made(), tmp_path, changed="again")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
