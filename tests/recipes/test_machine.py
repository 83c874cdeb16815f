"""Threads of the workers of a recipe."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

import fipray as fip
from fipray import recipes
from fipray.errors import DataError, UsageError
from fipray.recipes import machine
from fipray.recipes.machine import Machine, best_threads, gradient_seconds, with_threads, workers_on_cores
from fipray.records import Store

RECIPE = importlib.import_module("fipray.recipes.recipe")  # the package has a function of this name


@pytest.mark.parametrize(
    ("seconds", "most", "expected"),
    [
        ({1: 1.0}, 1, 1),
        ({1: 1.0, 2: 0.5}, 2, 2),
        ({1: 1.0, 2: 0.9}, 2, 1),
        ({1: 1.0, 2: 0.9}, 16, 1),
        ({1: 1.0, 2: 0.5, 4: 0.3, 6: 0.25}, 6, 6),
        ({1: 1.0, 2: 0.5, 4: 0.3, 8: 0.29}, 16, 4),
    ],
)
def test_threads_double_while_it_is_worth_it(seconds, most, expected):
    assert best_threads(seconds.__getitem__, most) == expected


def test_gradient_is_timed_with_the_threads_and_these_are_put_back():
    seen = []

    class Watched(nn.Linear):
        def forward(self, inputs):
            seen.append(torch.get_num_threads())
            return super().forward(inputs)

    before = torch.get_num_threads()
    assert gradient_seconds(fip.Network.of(Watched(8, 3)), torch.zeros(4, 8))(before + 1) > 0
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="workers have a GPU here")
@pytest.mark.usefixtures("without_ray")
def test_only_workers_on_this_machines_cores_are_fitted():
    assert workers_on_cores(fip.LocalRunner()) == 1
    assert workers_on_cores(fip.RayRunner()) == 0
    assert workers_on_cores(fip.RayRunner(num_workers=3)) == 3
    assert workers_on_cores(fip.RayRunner(address="auto")) is None
    assert workers_on_cores(fip.RayRunner(gpus_per_worker=0.5)) is None
    assert with_threads(fip.LocalRunner(), 4) == fip.LocalRunner(threads=4)
    assert with_threads(fip.RayRunner(num_workers=3), 4) == fip.RayRunner(num_workers=3, threads_per_worker=4)


@pytest.mark.usefixtures("without_ray")
def test_threads_follow_from_the_cores_and_from_the_paths_at_a_time(module, data, monkeypatch, tmp_path):
    monkeypatch.setattr(RECIPE, "num_cores", lambda: 13)
    monkeypatch.setattr(RECIPE, "gradient_seconds", lambda *_: lambda threads: 1 / threads)
    prune = recipes.prune(module, data)
    robust = recipes.robust_ensemble(module, data, members=4)
    into = tmp_path / "new"
    assert prune.fitted(fip.LocalRunner(), into).threads == 12
    assert prune.fitted(fip.RayRunner(gpus_per_worker=0), into).threads_per_worker == 12
    assert prune.fitted(fip.RayRunner(gpus_per_worker=0, num_workers=5), into).threads_per_worker == 2
    assert robust.fitted(fip.RayRunner(gpus_per_worker=0), into).threads_per_worker == 3
    assert robust.fitted(fip.LocalRunner(), into).threads == 12
    assert prune.fitted(fip.RayRunner(address="auto"), into).threads_per_worker == 1


def test_run_again_has_the_threads_of_the_first(module, data, monkeypatch, tmp_path):
    monkeypatch.setattr(RECIPE, "num_cores", lambda: 3)
    monkeypatch.setattr(RECIPE, "gradient_seconds", lambda *_: lambda threads: 1 / threads)
    used, made = [], fip.LocalRunner.worker

    def worker(runner, *given):
        used.append(runner.threads)
        return made(runner, *given)

    monkeypatch.setattr(fip.LocalRunner, "worker", worker)
    recipe = recipes.prune(module, data, sparsity=0.5, budget={"steps": 3})
    recipe.run(tmp_path / "pruned")
    assert Store.open(tmp_path / "pruned").manifest["parameters"]["threads"] == 2
    monkeypatch.setattr(RECIPE, "num_cores", lambda: 2)
    recipes.prune(module, data, sparsity=0.5, budget={"steps": 3}).run(tmp_path / "pruned")
    assert used == [2, 2]


def test_machine_has_the_threads_of_the_runner():
    assert Machine.of(fip.LocalRunner(threads=3)) == Machine(3, "cpu")
    assert machine.num_cores() >= 1


def test_network_that_does_not_take_the_inputs_is_refused_before_it_is_timed(data, monkeypatch, tmp_path):
    monkeypatch.setattr(RECIPE, "num_cores", lambda: 8)
    with pytest.raises(DataError, match="does not take"):
        recipes.prune(nn.Linear(9, 3), data).run(tmp_path / "out")


def test_threads_of_a_larger_machine_are_no_more_than_there_are_cores(module, data, monkeypatch, tmp_path):
    monkeypatch.setattr(RECIPE, "num_cores", lambda: 13)
    monkeypatch.setattr(RECIPE, "gradient_seconds", lambda *_: lambda threads: 1 / threads)
    recipe = recipes.prune(module, data, sparsity=0.5, budget={"steps": 3})
    recipe.run(tmp_path / "out", fip.LocalRunner(threads=3))
    assert recipe.fitted(fip.LocalRunner(), tmp_path / "out").threads == 3
    monkeypatch.setattr(RECIPE, "num_cores", lambda: 2)
    assert recipe.fitted(fip.LocalRunner(), tmp_path / "out").threads == 2


def test_directory_of_another_study_is_refused_before_threads_are_timed(module, data, monkeypatch, tmp_path):
    path = fip.PathSpec("walk", fip.objectives.RandomWalk(), num_steps=1)
    study = fip.Study("own", module, data, (path,), parameters={"threads": "many"})
    fip.LocalRunner().run(study, tmp_path / "own")
    monkeypatch.setattr(RECIPE, "gradient_seconds", None)  # calling it would raise
    with pytest.raises(UsageError, match="holds study 'own', not recipe 'prune'"):
        recipes.prune(module, data).run(tmp_path / "own")
