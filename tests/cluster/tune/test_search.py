"""Searches on a real Ray cluster: results, and recovery from killed processes and failed trials."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import fipray as fip
from fipray import analysis
from fipray.execution import LocalRunner
from fipray.records import Store
from tests.studies import Fails, KillsItsProcess, searching, searching_measures

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
NUM_TRIALS = 8
SEARCH = replace(searching(domain="wide"), num_trials=NUM_TRIALS, searcher="optuna", scheduler="asha")


def searching_with_gradients() -> fip.search.Search:
    """Search whose stepper follows the objective's gradient: others are refused with objectives of the tests here."""
    usual = searching()
    path = replace(usual.study.paths[0], stepper=fip.steppers.FirstOrder(beta=0.1))
    return replace(usual, study=replace(usual.study, paths=(path,)))


@dataclass(frozen=True)
class CutOff:
    """Search that was resumed after its driver was killed with SIGKILL."""

    directory: Path
    said: list[str]
    num_before: int  # trials that had finished
    times_before: dict[Path, int]  # of commit records

    @property
    def times(self) -> dict[Path, int]:
        return {file: file.stat().st_mtime_ns for file in (self.directory / "commits").iterdir()}

    @property
    def results(self) -> analysis.Results:
        return analysis.load(self.directory)


@pytest.fixture(scope="module")
def cut_off(ray_session, tmp_path_factory) -> CutOff:
    directory = tmp_path_factory.mktemp("results") / "search"
    command = [sys.executable, "-m", "fipray.cli", "search", "tests.studies:searching", "--into", str(directory)]
    command += ["--trials", str(NUM_TRIALS), "--searcher", "optuna", "--scheduler", "asha", "-p", "domain=wide"]
    command += ["--address", ray_session["address"], "--workers", "1"]
    environment = {**os.environ, "COLUMNS": "200"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as driver:
        assert driver.stderr is not None
        said: list[str] = []
        while sum(line.endswith(" s)\n") for line in said) < 3:  # a line for each finished trial
            said.append(next(driver.stderr))
        driver.send_signal(signal.SIGKILL)
        said += list(driver.stderr)
    assert driver.returncode == -signal.SIGKILL, said
    killed = CutOff(directory, said, len(analysis.load(directory).trials), {})
    killed = replace(killed, times_before=killed.times)
    fip.search.run(SEARCH, directory, fip.RayRunner(num_workers=1))
    return killed


def test_search_resumes_after_the_driver_was_killed(cut_off):
    results = cut_off.results
    assert 3 <= cut_off.num_before < NUM_TRIALS, cut_off.said
    assert {file: cut_off.times[file] for file in cut_off.times_before} == cut_off.times_before
    assert len(results.trials) == len(results.paths) == NUM_TRIALS
    assert sorted(results.trials["path_id"]) == sorted(results.paths["path_id"])
    Store.open(cut_off.directory).verify()


def test_stopped_trials_keep_their_points_and_finished_ones_are_evaluated(cut_off):
    paths = cut_off.results.paths
    given_up = paths[paths["outcome_kind"] == "given up"]
    assert 0 < len(given_up) < NUM_TRIALS
    assert (given_up["num_steps"] < 8).all()
    assert given_up["outcome"].str.fullmatch(r"given up by the search after \d of 8 steps; objective .*").all()
    last = cut_off.results.points.groupby("path_id")["step"].max()
    assert (last[paths["path_id"]].to_numpy() == paths["num_steps"].to_numpy()).all()
    assert set(cut_off.results.robustness["name"]) == set(paths["name"]) - set(given_up["name"])


def test_path_of_a_trial_equals_that_of_a_run_with_its_spec(cut_off, tmp_path):
    trial = cut_off.results.pareto().iloc[0]
    drawn = {"radius.initial": trial["config.radius.initial"], "seed": trial["config.seed"]}
    path = next(iter(SEARCH.job(drawn).values()))
    LocalRunner().run(replace(SEARCH.study, paths=(path,), evaluation=None), tmp_path)
    walked, points = analysis.load(tmp_path).points, cut_off.results.points
    columns = ["path_id", "step", "functional_distance_held_out", "objective_value", "clean_accuracy"]
    tried = points.loc[points["path_id"] == trial["path_id"], columns]
    assert tried.reset_index(drop=True).equals(walked[columns])


def test_finished_search_does_nothing_again_and_another_one_is_refused(cut_off):
    before = cut_off.times
    fip.search.run(SEARCH, cut_off.directory, fip.RayRunner(num_workers=1))
    assert cut_off.times == before
    with pytest.raises(fip.errors.UsageError, match="search_seed is 0 there and 1 here"):
        fip.search.run(replace(SEARCH, seed=1), cut_off.directory, fip.RayRunner(num_workers=1))


def test_trial_whose_worker_is_killed_resumes_and_a_failed_one_is_reported_with_its_values(ray_session, tmp_path):
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    dies = KillsItsProcess(str(deaths), times=1)
    objectives = fip.search.Choice((dies, Fails("the mistake")))
    made = replace(searching_with_gradients(), space={"objective": objectives}, searcher="grid")
    with pytest.raises(fip.errors.RunError) as failed:
        fip.search.run(made, tmp_path / "results", fip.RayRunner(num_workers=2))
    assert "1 of 2 trials failed" in str(failed.value)
    assert "objective=Fails(" in str(failed.value)
    assert "ZeroDivisionError: the mistake" in str(failed.value)
    assert len(list(deaths.iterdir())) == 1
    assert list(analysis.load(tmp_path / "results").trials["outcome_kind"]) == ["completed"]


FACTOR = 1.0


@dataclass(frozen=True)
class Scaled:
    """Sum of squared weights, times a constant."""

    def value(self, problem, weights, batch):
        return FACTOR * weights.square().sum()


def test_search_whose_code_changed_stops_or_runs_again(ray_session, tmp_path, monkeypatch):
    study = searching_with_gradients().study
    path = replace(study.paths[0], objective=Scaled(), num_steps=2)
    study = replace(study, paths=(path,), evaluation=None)
    made = fip.search.Search(study, {"seed": fip.search.Choice((0, 1))}, {"objective_value": "min"}, searcher="grid")
    runner = fip.RayRunner(num_workers=1)
    fip.search.run(made, tmp_path / "results", runner)
    before = analysis.load(tmp_path / "results").points
    monkeypatch.setattr(f"{__name__}.FACTOR", 2.0)
    with pytest.raises(fip.errors.UsageError, match=r"was made by other code: FACTOR in test_search\.py changed since"):
        fip.search.run(made, tmp_path / "results", runner)
    fip.search.run(made, tmp_path / "results", runner, changed="redo")
    after = analysis.load(tmp_path / "results")
    assert len(after.trials) == len(after.paths) == 2
    first = [points.query("step == 0")["objective_value"].tolist() for points in (before, after.points)]
    assert first[1] == [2 * value for value in first[0]]


def test_search_for_a_measure_of_the_study_finds_the_largest(ray_session, tmp_path):
    """Tune and the tables agree, and each trial's path equals that of a study with the same spec, bit for bit."""
    found = searching_measures()
    fip.search.run(found, tmp_path / "search", fip.RayRunner(num_workers=1))
    results = analysis.load(tmp_path / "search")
    judged = analysis.judged_trials(results).set_index("name")
    assert len(judged) == 2
    assert list(results.pareto()["name"]) == [judged["size"].idxmax()]
    for config, name in zip(judged["config.radius.initial"], judged.index, strict=True):
        usual = found.path
        alone = replace(found.study, paths=(replace(usual, name=name, radius=replace(usual.radius, initial=config)),))
        LocalRunner().run(alone, tmp_path / name)
        local = analysis.load(tmp_path / name)
        columns = ["name", "step", "measure", "value"]
        own = results.point_measures[results.point_measures["name"] == name][columns].reset_index(drop=True)
        assert own.equals(local.point_measures[columns])
