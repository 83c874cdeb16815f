"""A study on a real Ray cluster: the same tables as without one, and what is left when processes are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import fipray as fip
from fipray import analysis
from fipray.records import TABLES, Store
from fipray.study import LocalRunner
from tests.studies import Fails, KillsItsProcess, KillsItsProcessOnce, Talks, cooperating, study

ROOT = Path(__file__).parents[2]
MAY_DIFFER = {"attempt", "host", "node_id", "worker_id", "device", "seconds", "walk_seconds", "weights_file"}


@pytest.fixture
def runner(ray_session) -> fip.RayRunner:
    return fip.RayRunner(num_workers=2)


def assert_equal_tables(first: analysis.Results, second: analysis.Results) -> None:
    """Equal to the last bit, but for where, when and how often the work was done."""
    assert len(first.points) > 0
    for name in TABLES:
        one, other = (
            getattr(results, name).drop(columns=MAY_DIFFER & set(getattr(results, name))) for results in (first, second)
        )
        pd.testing.assert_frame_equal(one, other, check_exact=True)


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> analysis.Results:
    directory = tmp_path_factory.mktemp("results") / "local"
    LocalRunner().run(study(), directory)
    return analysis.load(directory)


def test_actors_and_this_process_write_equal_tables(runner, ray_session, tmp_path):
    """Also where attacks are shared out."""
    in_pieces = study(num_steps=2, chunk_size=25)
    runner.run(in_pieces, tmp_path / "ray")
    LocalRunner().run(in_pieces, tmp_path / "local")
    results = analysis.load(tmp_path / "ray")
    assert_equal_tables(results, analysis.load(tmp_path / "local"))
    assert len(results.verdicts) == 6 * 2 * 2
    assert set(results.paths["node_id"]) == {ray_session["node_id"]}
    assert results.paths["worker_id"].nunique() == 2


def test_the_run_goes_on_when_an_actor_is_killed(runner, local, tmp_path):
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    runner.run(study(objective=KillsItsProcess(str(deaths), times=1)), tmp_path / "results")
    results = analysis.load(tmp_path / "results")
    assert len(list(deaths.iterdir())) == 1
    assert results.paths.set_index("name").loc["sparse", "attempt"] == 2
    assert sorted(results.paths["name"]) == sorted(local.paths["name"])
    assert not results.points.duplicated(["path_id", "step"]).any()
    Store.open(tmp_path / "results").verify()


def test_members_that_cooperate_write_equal_tables_when_an_actor_is_killed_in_the_middle_of_a_round(runner, tmp_path):
    """The round is begun again, and no other is; both runs carry out the very same study."""
    death = tmp_path / "death"
    together = cooperating(objective=KillsItsProcessOnce(str(death)))
    runner.run(together, tmp_path / "ray")
    assert death.exists()
    LocalRunner().run(together, tmp_path / "local")
    results = analysis.load(tmp_path / "ray")
    assert_equal_tables(results, analysis.load(tmp_path / "local"))
    attempts = results.rounds.set_index(["name", "round"])["attempt"]
    assert attempts[attempts != 1].to_dict() == {("a", 2): 2}
    assert set(results.paths["attempt"]) == {1}
    assert results.rounds["worker_id"].nunique() > 1


def test_work_that_kills_its_actor_again_and_again_is_given_up_and_the_rest_is_done(ray_session, tmp_path):
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    runner = fip.RayRunner(num_workers=2, max_attempts=2)
    with pytest.raises(fip.RunError) as failed:
        runner.run(
            study(objective=KillsItsProcess(str(deaths), times=100), other=Fails("the mistake")), tmp_path / "results"
        )
    assert "path sparse: its worker was lost 2 times" in str(failed.value)
    assert "ZeroDivisionError: the mistake" in str(failed.value), "a worker's own error"
    assert "tests/studies.py" in str(failed.value), "with its traceback"
    assert len(list(deaths.iterdir())) == 2
    assert sorted(analysis.load(tmp_path / "results").paths["name"]) == ["diverse-0"]


def test_a_killed_driver_leaves_whole_work_and_the_same_command_does_the_rest(ray_session, local, tmp_path):
    directory = tmp_path / "results"
    command = [sys.executable, "-m", "fipray.cli", "run", "tests.studies:study", "--into", str(directory)]
    command += ["--address", ray_session["address"], "--workers", "2"]
    environment = {**os.environ, "COLUMNS": "200"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as driver:
        assert driver.stderr is not None
        said = [next(driver.stderr) for _ in range(4)]  # "2 workers on 1 node", then a line for each work that is done
        driver.send_signal(signal.SIGKILL)
        said += list(driver.stderr)
    assert driver.returncode == -signal.SIGKILL
    done = Store.open(directory).committed()
    assert 3 <= len(done) < 11, said
    Store.open(directory).verify()
    times = {file: file.stat().st_mtime_ns for file in (directory / "commits").iterdir()}

    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert f"{len(done)} of 11 pieces of work are there already; {11 - len(done)} are missing" in finished.stderr
    assert {file: file.stat().st_mtime_ns for file in times} == times, "what was done is not done again"
    assert_equal_tables(analysis.load(directory), local)
    assert len(pd.read_parquet(directory / "points")) == len(local.points)


def test_what_an_actor_s_path_printed_and_warned_is_kept_beside_the_tables(ray_session, tmp_path):
    talking = replace(
        study(), paths=(fip.PathSpec("one", Talks("a word"), num_steps=1),), ensembles=(), evaluation=None
    )
    store = fip.RayRunner(num_workers=1).run(talking, tmp_path)
    text = store.read_log(talking.path_ids["one"], 1)
    for line in ("printed a word", "complained a word", "RuntimeWarning: warned a word", "another library: a word"):
        assert line in text


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"num_workers": 1, "gpus_per_worker": 1}, "1 GPUs are asked for (workers: 1, GPUs of each: 1)"),
        ({"num_workers": 3}, "3 CPUs are asked for (workers: 3, CPUs of each: 1)"),
        ({"threads_per_worker": 64}, "64 CPUs are asked for (workers: 1, CPUs of each: 64)"),
    ],
)
def test_more_than_the_cluster_has_is_refused_within_seconds(ray_session, tmp_path, asked, sentence):
    began = time.monotonic()
    with pytest.raises(fip.UsageError) as refused:
        fip.RayRunner(**asked).run(study(), tmp_path / "results")
    assert time.monotonic() - began < 10, "a promise to the user, not a benchmark"
    assert sentence in str(refused.value)
    assert "the cluster of 1 node has 0 GPUs and 2 CPUs" in str(refused.value)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"num_workers": 0}, "at least one worker"),
        ({"gpus_per_worker": -1}, "GPUs per worker are at least 0"),
        ({"threads_per_worker": 0}, "at least 1; 0 and 3 were given"),
    ],
)
def test_a_runner_refuses(asked, sentence):
    with pytest.raises(fip.UsageError) as refused:
        fip.RayRunner(**asked)
    assert sentence in str(refused.value)
