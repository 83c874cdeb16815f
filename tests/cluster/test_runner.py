"""Studies on a real Ray cluster: equal tables with and without it, and recovery from killed processes."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import ray

import fipray as fip
from fipray import analysis, cli
from fipray.execution import LocalRunner
from fipray.records import TABLES, Store
from fipray.study import reference
from fipray.study.canonical import from_json
from tests.studies import (
    DiesOnce,
    Fails,
    KillsItsProcess,
    KillsItsProcessOnce,
    Talks,
    chained,
    cooperating,
    measured,
    study,
)

ROOT = Path(__file__).parents[2]
MAY_DIFFER = {"attempt", "host", "node_id", "worker_id", "device", "seconds", "walk_seconds", "weights_file"}


@pytest.fixture
def runner(ray_session) -> fip.RayRunner:
    return fip.RayRunner(num_workers=2)


def assert_equal_tables(first: analysis.Results, second: analysis.Results) -> None:
    """Assert equality to the last bit, except for where, when and how often jobs ran."""
    assert len(first.points) > 0
    for name in TABLES:
        one, other = (
            getattr(results, name).drop(columns=MAY_DIFFER & set(getattr(results, name))) for results in (first, second)
        )
        pd.testing.assert_frame_equal(one, other, check_exact=True)


def row_norm(directory: Path, row: pd.Series) -> float:
    """Norm of the weights at the end of a path."""
    return float(
        np.linalg.norm(Store.open(directory).read_weights(row["weights_file"], row["weights_sha256"])["weights"])
    )


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> analysis.Results:
    directory = tmp_path_factory.mktemp("results") / "local"
    LocalRunner().run(study(), directory)
    return analysis.load(directory)


def test_ray_and_local_runner_write_equal_tables(runner, ray_session, tmp_path):
    """The evaluation is split into several jobs per attack."""
    in_pieces = study(num_steps=2, chunk_size=25)
    runner.run(in_pieces, tmp_path / "ray")
    LocalRunner().run(in_pieces, tmp_path / "local")
    results = analysis.load(tmp_path / "ray")
    assert_equal_tables(results, analysis.load(tmp_path / "local"))
    assert len(results.per_example) == 6 * 2 * 2
    assert set(results.paths["node_id"]) == {ray_session["node_id"]}


@pytest.mark.slow
def test_measures_and_distances_equal_the_local_ones_after_an_actor_was_killed(runner, tmp_path):
    killing = measured(stepper=DiesOnce(str(tmp_path / "death")))
    runner.run(killing, tmp_path / "ray")
    assert (tmp_path / "death").exists()
    LocalRunner().run(killing, tmp_path / "local")
    results = analysis.load(tmp_path / "ray")
    assert_equal_tables(results, analysis.load(tmp_path / "local"))
    assert set(results.point_measures["measure"]) == {"size", "robust"}
    assert set(results.point_distances["kept"]) == {"classes", "total"}


def test_run_continues_when_an_actor_is_killed(runner, local, tmp_path):
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    runner.run(study(objective=KillsItsProcess(str(deaths), times=1)), tmp_path / "results")
    results = analysis.load(tmp_path / "results")
    assert len(list(deaths.iterdir())) == 1
    assert results.paths.set_index("name").loc["sparse", "attempt"] == 2
    assert sorted(results.paths["name"]) == sorted(local.paths["name"])
    assert not results.points.duplicated(["path_id", "step"]).any()
    Store.open(tmp_path / "results").verify()


@pytest.mark.slow
def test_cooperating_members_write_equal_tables_when_an_actor_is_killed_in_a_round(runner, tmp_path):
    """That round is repeated, and no other."""
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


@pytest.mark.slow
def test_chained_paths_write_equal_tables_when_an_actor_is_killed_at_the_last_one(runner, tmp_path):
    """The actor that resumes the path has never seen it before."""
    death = tmp_path / "death"
    study = chained(objective=KillsItsProcessOnce(str(death)))
    runner.run(study, tmp_path / "ray")
    assert death.exists()
    LocalRunner().run(study, tmp_path / "local")
    results = analysis.load(tmp_path / "ray")
    assert_equal_tables(results, analysis.load(tmp_path / "local"))
    attempts = results.paths.set_index("name")["attempt"]
    assert attempts[attempts != 1].to_dict() == {"turns": 2}


@pytest.mark.slow
def test_job_that_kills_its_actor_repeatedly_fails_and_the_others_finish(ray_session, tmp_path):
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    runner = fip.RayRunner(num_workers=2, max_attempts=2)
    with pytest.raises(fip.errors.RunError) as failed:
        runner.run(
            study(objective=KillsItsProcess(str(deaths), times=100), other=Fails("the mistake")), tmp_path / "results"
        )
    assert "path sparse: its worker was lost 2 times; last cause: its process ended without a message" in str(
        failed.value
    )
    assert f"node {ray_session['node_id']}, log file {ray_session['session_dir']}/logs/worker-" in str(failed.value)
    assert "ZeroDivisionError: the mistake" in str(failed.value), "a worker's own error"
    assert "tests/studies.py" in str(failed.value), "with its traceback"
    assert len(list(deaths.iterdir())) == 2
    assert sorted(analysis.load(tmp_path / "results").paths["name"]) == ["diverse-0"]


@pytest.mark.slow
@pytest.mark.timeout(300)  # the second run waits until Ray has noticed the death of the first driver
def test_same_command_resumes_after_the_driver_was_killed(ray_session, local, tmp_path):
    directory = tmp_path / "results"
    command = [sys.executable, "-m", "fipray.cli", "run", "tests.studies:study", "--into", str(directory)]
    command += ["--address", ray_session["address"], "--workers", "2"]
    environment = {**os.environ, "COLUMNS": "200"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as driver:
        assert driver.stderr is not None
        said: list[str] = []
        while sum(line.endswith(" s)\n") for line in said) < 3:  # a line for each work that is done
            said.append(next(driver.stderr))
        driver.send_signal(signal.SIGKILL)
        said += list(driver.stderr)
    assert driver.returncode == -signal.SIGKILL
    done = Store.open(directory).committed()
    assert 3 <= len(done) < 11, said
    Store.open(directory).verify()
    times = {file: file.stat().st_mtime_ns for file in (directory / "commits").iterdir()}

    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert f"{len(done)} of 11 jobs are already done; {11 - len(done)} remain" in finished.stderr
    assert {file: file.stat().st_mtime_ns for file in times} == times, "what was done is not done again"
    assert_equal_tables(analysis.load(directory), local)
    assert len(pd.read_parquet(directory / "points")) == len(local.points)


@pytest.mark.slow
def test_workers_do_not_need_the_modules_of_the_study(ray_session, tmp_path, monkeypatch):
    """Neither its own module nor one that it imports: both files are deleted before the workers start."""
    (tmp_path / "of_the_driver.py").write_text(
        "import dataclasses\nimport fipray as fip\nimport of_the_driver_too\nfrom tests.studies import data\n"
        "@dataclasses.dataclass(frozen=True)\nclass Mine:\n    weight: float\n"
        "    def value(self, problem, weights, batch):\n"
        "        return self.weight * of_the_driver_too.squared(weights)\n"
        "def study():\n    path = fip.PathSpec('mine', Mine(2.0), num_steps=3, batch_size=50)\n"
        "    return fip.Study('mine', of_the_driver_too.Network(), data(), (path,))\n"
    )
    (tmp_path / "of_the_driver_too.py").write_text(
        "import torch\nFACTOR = 3.0\ndef squared(weights):\n    return FACTOR * weights.square().sum()\n"
        "class Network(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.layer = torch.nn.Linear(6, 3)\n        self.eval()\n"
        "    def forward(self, inputs):\n        return self.layer(inputs)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    made = importlib.import_module("of_the_driver").study()
    for file in tmp_path.glob("*.py"):
        file.unlink()
    fip.RayRunner(num_workers=1).run(made, tmp_path / "results")
    row = analysis.load(tmp_path / "results").paths.iloc[0]
    assert row["objective"] == "of_the_driver:Mine"
    assert row["objective_value"] == pytest.approx(6 * row_norm(tmp_path / "results", row) ** 2)


def test_sigterm_ends_the_run_and_its_actors_and_keeps_finished_jobs(ray_session, tmp_path, monkeypatch, capsys):
    """A worker sends the signal; its path would never end."""
    arguments = ["run", "tests.studies:signalling", "--into", str(tmp_path), "--workers", "1"]
    knobs = ["-p", f"process={os.getpid()}", "-p", f"number={signal.SIGTERM.value}"]
    monkeypatch.setattr(sys, "argv", ["fipray", *arguments, *knobs])
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    said = capsys.readouterr().err
    assert said.endswith("fipray: terminated; finished jobs are saved. Run the same command again to resume\n")
    assert len(Store.open(tmp_path).committed()) in (2, 3)  # one more may have been ready first
    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU") != 2:  # as long as an actor lives it has one of them
        assert time.monotonic() < deadline


@pytest.mark.slow
def test_log_of_an_attempt_holds_output_and_warnings_of_the_actor(ray_session, tmp_path):
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
        ({"num_workers": 1, "gpus_per_worker": 1}, "1 GPUs requested (workers: 1, GPUs per worker: 1)"),
        ({"num_workers": 3}, "3 CPUs requested (workers: 3, CPUs per worker: 1)"),
        ({"threads_per_worker": 64}, "64 CPUs requested (workers: 1, CPUs per worker: 64)"),
        ({"memory_per_worker": 10**15}, "1e+06 GB of memory requested (workers: 1, GB of memory per worker: 1e+06)"),
        ({"resources_per_worker": {"tpu": 2}}, "and 0 tpu; custom resources available: none"),
    ],
)
def test_runner_refuses_more_than_the_cluster_has_within_seconds(ray_session, tmp_path, asked, sentence):
    began = time.monotonic()
    with pytest.raises(fip.errors.UsageError) as refused:
        fip.RayRunner(**asked).run(study(), tmp_path / "results")
    assert time.monotonic() - began < 10, "a promise to the user, not a benchmark"
    assert sentence in str(refused.value)
    assert re.search(r"the cluster of 1 node has 0 GPUs(,| and) 2 CPUs", str(refused.value))
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"num_workers": 0}, "num_workers must be at least 1 or None, got 0"),
        ({"gpus_per_worker": -1}, "gpus_per_worker must be 0, a fraction of 1, or 1, got -1"),
        ({"gpus_per_worker": 1.5}, "a worker computes on one GPU, so of gpus_per_worker=1.5 all others"),
        ({"gpus_per_worker": 2}, "use gpus_per_worker=1 (--gpus-per-worker 1) and as many workers as there are GPUs"),
        ({"threads_per_worker": 0}, "threads_per_worker must be at least 1, got 0"),
        ({"memory_per_worker": -1}, "memory_per_worker must be at least 0 bytes, got -1"),
        ({"resources_per_worker": {"tpu": 0}}, "or a positive whole number, got tpu=0"),
        ({"resources_per_worker": {"GPU": 1}}, "GPU is not a custom resource"),
        ({"placement": "middle"}, "unknown placement 'middle'; available: pack, spread"),
        ({"max_attempts": 0}, "max_attempts must be at least 1, got 0"),
    ],
)
def test_runner_refuses_invalid_arguments(asked, sentence):
    with pytest.raises(fip.errors.UsageError) as refused:
        fip.RayRunner(**asked)
    assert sentence in str(refused.value)


STUDY_FILE = """
from dataclasses import dataclass
import fipray as fip
from tests import studies


@dataclass(frozen=True)
class Shrinks:
    def value(self, problem, weights, batch):
        from beside_the_study import raised

        return raised(weights).mean()


def study():
    paths = [fip.PathSpec(f"p{seed}", Shrinks(), num_steps=2, batch_size=50, seed=seed) for seed in range(2)]
    return fip.Study("own", studies.module(), studies.data(), tuple(paths))
"""


@pytest.mark.slow
def test_study_file_with_modules_beside_it_runs_on_actors_and_resumes(runner, tmp_path, monkeypatch):
    (tmp_path / "study_in_a_file.py").write_text(STUDY_FILE)
    (tmp_path / "beside_the_study.py").write_text("def raised(weights):\n    return weights.square()\n")
    monkeypatch.setattr(sys, "path", list(sys.path))

    def made() -> fip.Study:
        return reference.build(reference.find(f"{tmp_path}/study_in_a_file.py:study"), {}, fip.Study)

    runner.run(made(), tmp_path / "ray")
    next((tmp_path / "ray" / "commits").iterdir()).unlink()
    runner.run(made(), tmp_path / "ray")
    LocalRunner().run(made(), tmp_path / "local")
    assert_equal_tables(analysis.load(tmp_path / "ray"), analysis.load(tmp_path / "local"))
    spec = from_json(analysis.load(tmp_path / "ray").paths["spec_json"].iloc[0])
    assert type(spec.objective) is sys.modules["study_in_a_file"].Shrinks
    for name in ("study_in_a_file", "beside_the_study"):
        del sys.modules[name]
