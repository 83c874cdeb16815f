"""Runs into results directories that were made by other code."""

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
    """Sum of squares of the weights, with a sign."""

    def value(self, problem, weights, batch):
        return SIGN * weights.square().sum()


def study() -> fip.Study:
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
    """Results made with SIGN = 1, before SIGN becomes -1."""
    monkeypatch.setattr(f"{__name__}.SIGN", 1.0)
    LocalRunner().run(study(), tmp_path / "results")
    monkeypatch.setattr(f"{__name__}.SIGN", -1.0)
    return tmp_path / "results"


def test_run_stops_and_names_what_changed_and_the_remedies(directory):
    before = values(directory)
    with pytest.raises(fip.errors.UsageError) as refused:
        LocalRunner().run(study(), directory)
    message = str(refused.value)
    assert "was made by other code: SIGN in test_changed.py changed since" in message
    assert "--changed redo" in message
    assert "another directory" in message
    assert values(directory) == before


def test_change_is_noticed_by_an_existing_study_object(tmp_path, monkeypatch):
    same = study()
    LocalRunner().run(same, tmp_path)
    monkeypatch.setattr(f"{__name__}.SIGN", -1.0)
    with pytest.raises(fip.errors.UsageError, match="was made by other code"):
        LocalRunner().run(same, tmp_path)


@pytest.mark.parametrize("is_compacted", [False, True])
def test_redo_recomputes_only_what_depends_on_the_code(directory, is_compacted):
    before, rows = values(directory), analysis.load(directory).paths.set_index("name")
    if is_compacted:
        compact(Store.open(directory))
    LocalRunner().run(study(), directory, changed="redo")
    assert values(directory)["own"] == -before["own"]
    now = analysis.load(directory)
    paths = now.paths.set_index("name")
    assert sorted(paths.index) == ["after", "other", "own"]
    assert paths.loc["other", "path_id"] == rows.loc["other", "path_id"]
    assert set(paths["path_id"]) == set(study().path_ids.values())
    assert sorted(now.robustness.query("attack == 'worst'")["name"]) == ["after", "base", "other", "own"]
    assert not now.points.duplicated(["name", "step"]).any()
    Store.open(directory).verify()
    files = {file: file.stat().st_mtime_ns for file in directory.rglob("*.parquet")}
    LocalRunner().run(study(), directory)  # nothing is left to compute, and the code is that of the directory
    assert {file: file.stat().st_mtime_ns for file in directory.rglob("*.parquet")} == files


def test_redo_with_the_old_code_restores_the_old_results(directory, monkeypatch):
    before = values(directory)
    compact(Store.open(directory))
    for sign in (-1.0, 1.0):
        monkeypatch.setattr(f"{__name__}.SIGN", sign)
        LocalRunner().run(study(), directory, changed="redo")
    assert values(directory) == before
    assert len(Store.open(directory).committed()) == len(study().specs)


def test_open_reader_sees_new_rows_once(directory):
    reader = Store.open(directory)
    assert reader.read_table("paths").num_rows == 3
    LocalRunner().run(study(), directory, changed="redo")
    names = reader.read_table("paths")["name"].to_pylist()
    assert sorted(names) == ["after", "other", "own"]


def test_unknown_choice_is_refused(tmp_path):
    with pytest.raises(fip.errors.UsageError, match="changed is 'again'; expected 'stop' or 'redo'"):
        LocalRunner().run(study(), tmp_path, changed="again")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
