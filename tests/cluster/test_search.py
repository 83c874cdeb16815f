"""A search on a real Ray cluster: what it writes, and what is left when processes are killed or a trial fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import fipray as fip
from fipray import analysis
from fipray.records import Store
from fipray.study import LocalRunner
from tests.studies import Fails, KillsItsProcess, searching

ROOT = Path(__file__).parents[2]


@pytest.fixture
def runner(ray_session) -> fip.RayRunner:
    return fip.RayRunner(num_workers=2)


@pytest.fixture(scope="module")
def grid(ray_session, tmp_path_factory) -> Path:
    """Four trials that are walked to their ends."""
    directory = tmp_path_factory.mktemp("results") / "grid"
    fip.search(replace(searching(), searcher="grid"), directory, fip.RayRunner(num_workers=2))
    return directory


def test_every_trial_of_a_grid_is_a_row_with_its_values_and_its_path_is_judged(grid):
    results = analysis.load(grid)
    tried = results.trials[["config.seed", "config.stepper.beta"]]
    assert sorted(map(tuple, tried.to_numpy().tolist())) == [(0, 0.0), (0, 1.0), (1, 0.0), (1, 1.0)]
    assert sorted(results.trials["path_id"]) == sorted(results.paths["path_id"])
    assert set(results.trials["num_steps"]) == {8}
    assert results.robustness.groupby("name").size().to_dict() == dict.fromkeys(results.paths["name"], 3)
    Store.open(grid).verify()


def test_the_front_is_of_trials_that_no_other_beats(grid):
    results = analysis.load(grid)
    front, trials = results.pareto(), analysis.judged_trials(results)
    best = trials["functional_distance_held_out"].min()
    assert front["functional_distance_held_out"].iloc[0] == best
    assert front["robust_accuracy"].max() == trials["robust_accuracy"].max()
    assert front["functional_distance_held_out"].is_monotonic_increasing


def test_a_trial_is_the_path_that_its_spec_is_in_a_run(grid, tmp_path):
    results = analysis.load(grid)
    made = searching()
    path = next(iter(made.work({"stepper.beta": 1, "seed": 1}).values()))
    LocalRunner().run(replace(made.study, paths=(path,), evaluation=None), tmp_path)
    walked = analysis.load(tmp_path).points
    tried = results.points[results.points["path_id"].isin(walked["path_id"])]
    compared = ["path_id", "step", "functional_distance_held_out", "objective_value", "clean_accuracy"]
    assert tried[compared].reset_index(drop=True).equals(walked[compared])


def test_the_same_search_again_does_nothing_and_another_is_refused(grid):
    times = {file: file.stat().st_mtime_ns for file in (grid / "commits").iterdir()}
    fip.search(replace(searching(), searcher="grid"), grid, fip.RayRunner(num_workers=2))
    assert {file: file.stat().st_mtime_ns for file in (grid / "commits").iterdir()} == times
    with pytest.raises(fip.UsageError, match="search_seed is 0 there and 1 here"):
        fip.search(replace(searching(), searcher="grid", seed=1), grid, fip.RayRunner(num_workers=2))


def test_a_killed_driver_is_followed_by_one_that_does_the_rest(ray_session, tmp_path):
    """With ASHA and Optuna: trials that are given up keep their points."""
    directory = tmp_path / "results"
    command = [sys.executable, "-m", "fipray.cli", "search", "tests.studies:searching", "--into", str(directory)]
    command += ["--trials", "8", "--searcher", "optuna", "--scheduler", "asha", "-p", "domain=wide"]
    command += ["--address", ray_session["address"], "--workers", "2"]
    environment = {**os.environ, "COLUMNS": "200"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as driver:
        assert driver.stderr is not None
        said = [next(driver.stderr) for _ in range(4)]  # "8 trials by 2 workers", then a line for each that ended
        driver.send_signal(signal.SIGKILL)
        said += list(driver.stderr)
    assert driver.returncode == -signal.SIGKILL
    done = Store.open(directory).committed()
    ended = len(analysis.load(directory).trials)
    assert 3 <= ended < 8, said
    times = {file: file.stat().st_mtime_ns for file in (directory / "commits").iterdir()}

    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert f"{ended} of 8 pieces of work are there already" in finished.stderr
    assert "front of 8 trials" in finished.stdout
    assert {file: file.stat().st_mtime_ns for file in times} == times, "what was done is not done again"
    results = analysis.load(directory)
    assert done <= Store.open(directory).committed()
    assert len(results.trials) == len(results.paths) == 8
    given_up = results.paths[results.paths["outcome_kind"] == "given up"]
    assert 0 < len(given_up) < 8
    assert (given_up["num_steps"] < 8).all()
    assert given_up["outcome"].str.fullmatch(r"given up by the search after \d of 8 steps").all()
    last = results.points.groupby("path_id")["step"].max()
    assert (last[results.paths["path_id"]].to_numpy() == results.paths["num_steps"].to_numpy()).all()
    assert set(results.robustness["name"]) == set(results.paths["name"]) - set(given_up["name"])
    Store.open(directory).verify()


def test_a_trial_whose_worker_is_killed_goes_on_and_one_that_fails_is_told_with_its_values(runner, tmp_path):
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    objectives = fip.Choice((KillsItsProcess(str(deaths), times=1), Fails("the mistake")))
    made = replace(searching(), space={"objective": objectives}, searcher="grid", scheduler="median")
    with pytest.raises(fip.RunError) as failed:
        fip.search(made, tmp_path / "results", runner)
    assert "1 of 2 trials failed" in str(failed.value)
    assert "objective=Fails(" in str(failed.value)
    assert "ZeroDivisionError: the mistake" in str(failed.value)
    assert len(list(deaths.iterdir())) == 1
    assert list(analysis.load(tmp_path / "results").trials["outcome_kind"]) == ["completed"]
