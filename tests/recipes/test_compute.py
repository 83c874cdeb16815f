"""Precision and size of the passes of a recipe: the same in its trial as on its workers, and again when it resumes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import fipray as fip
from fipray import analysis, recipes
from fipray.errors import UsageError
from fipray.recipes.record import recorded_compute
from fipray.records import Store
from tests.recipes.conftest import small_data, trained
from tests.recipes.test_learn import tasks

RECIPE = importlib.import_module("fipray.recipes.recipe")  # the package has a function of this name
BF16 = fip.Compute(precision="bf16")


class Watched(nn.Module):
    """Network that notes the size of each pass, and whether autocast is on; all copies write into the same lists."""

    sizes: list[int] = []  # noqa: RUF012
    autocast: list[bool] = []  # noqa: RUF012
    is_double = False

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.dtype is torch.float32 or Watched.is_double:  # checks of a network are in double precision
            Watched.sizes.append(len(inputs))
            Watched.autocast.append(torch.is_autocast_enabled("cpu"))
        return self.inner(inputs)


@pytest.fixture(autouse=True)
def nothing_seen():
    Watched.sizes.clear()
    Watched.autocast.clear()


def near() -> nn.Module:
    module = trained()
    with torch.no_grad():
        module[0].bias += 0.05  # type: ignore[index]
    return module


STEPS = {"steps": 6}
SMALL: dict[str, Callable[[nn.Module, fip.Data], recipes.Recipe]] = {
    "prune": lambda module, data: recipes.prune(module, data, sparsity=0.5, budget=STEPS),
    "robust-ensemble": lambda module, data: recipes.robust_ensemble(module, data, members=2, budget=STEPS),
    "diverse-ensemble": lambda module, data: recipes.diverse_ensemble(module, data, members=2, budget=STEPS),
    "learn": lambda module, data: recipes.learn(module, tasks(0), data, scenario="task", num_stored=60, budget=STEPS),
    "connect": lambda module, data: recipes.connect(module, Watched(near()), data, budget=STEPS),
}


@pytest.mark.parametrize(
    "name", [name if name in ("prune", "learn") else pytest.param(name, marks=pytest.mark.slow) for name in SMALL]
)
def test_all_passes_of_a_recipe_are_in_bfloat16_from_its_trial_to_what_it_says_at_the_end(name, data, tmp_path):
    recipe = SMALL[name](Watched(trained()).eval(), data).computed(BF16)
    results = recipe.run(tmp_path / "out")
    assert set(results.paths["outcome_kind"]) <= {"completed", "stopped", "no step possible"}
    assert results.paths["functional_distance_held_out"].notna().all()
    recipe.outcome(results)
    assert set(Watched.autocast) == {True}
    assert Store.open(tmp_path / "out").manifest["compute"]["precision"] == "bf16"


def test_threads_are_chosen_by_passes_of_the_workers_precision(data, monkeypatch, tmp_path):
    monkeypatch.setattr(RECIPE, "num_cores", lambda: 3)
    SMALL["prune"](Watched(trained()).eval(), data).computed(BF16).fitted(fip.LocalRunner(), tmp_path / "out")
    assert set(Watched.autocast) == {True}


def test_micro_batches_bound_every_pass_and_change_results_by_rounding_alone(monkeypatch, tmp_path):
    given = small_data()
    names = ("anchors", "held_out", "test_inputs")
    data = replace(given, **{name: getattr(given, name).astype("float64") for name in names})
    weights = []
    monkeypatch.setattr(Watched, "is_double", True)
    for micro_batch in (None, 7):
        Watched.sizes.clear()
        recipe = SMALL["prune"](Watched(trained().double()).eval(), data)
        results = recipe.run(tmp_path / str(micro_batch), compute=fip.Compute(micro_batch=micro_batch))
        weights.append(torch.from_numpy(results.weights("pruning")))
        assert max(Watched.sizes) <= 7 or micro_batch is None
    assert Store.open(tmp_path / "7").manifest["study_id"] == Store.open(tmp_path / "None").manifest["study_id"]
    torch.testing.assert_close(*weights, rtol=1e-7, atol=1e-9)


def test_resumed_recipe_has_the_precision_and_the_size_of_the_first_run(module, data, tmp_path):
    compute = fip.Compute(precision="bf16", micro_batch=16)
    first = SMALL["prune"](module, data).run(tmp_path / "out", compute=compute)
    assert recorded_compute(tmp_path / "out", None) == compute
    prepared = SMALL["prune"](module, data).prepared(fip.LocalRunner(), tmp_path / "out")
    assert prepared.study.compute == compute
    again = SMALL["prune"](module, data).run(tmp_path / "out")
    assert list(again.paths["path_id"]) == list(first.paths["path_id"])
    smaller = replace(compute, micro_batch=8)
    assert SMALL["prune"](module, data).computed(smaller).as_recorded(tmp_path / "out").compute == smaller
    with pytest.raises(UsageError, match="holds results in precision 'bf16', and 'fp32' is asked for"):
        SMALL["prune"](module, data).run(tmp_path / "out", compute=fip.Compute())


def test_directory_that_does_not_say_how_passes_were_computed_has_the_defaults(module, data, tmp_path):
    recipe = SMALL["prune"](module, data)
    study = recipe.prepared(fip.LocalRunner(), tmp_path / "old").study
    manifest = {name: value for name, value in study.manifest.items() if name != "compute"}
    Store.create_or_open(tmp_path / "old", manifest)
    assert recorded_compute(tmp_path / "old", "fp32") == fip.Compute()
    assert set(recipe.run(tmp_path / "old").paths["path_id"]) == set(study.path_ids.values())
    with pytest.raises(UsageError, match="in precision 'fp32'"):
        SMALL["prune"](module, data).run(tmp_path / "old", compute=BF16)


def test_study_of_another_precision_is_refused_by_name(module, data, tmp_path):
    path = fip.PathSpec("walk", fip.objectives.RandomWalk(), num_steps=1)
    study = fip.Study("own", module, data, (path,))
    fip.LocalRunner().run(study, tmp_path)
    with pytest.raises(UsageError, match="precision is 'fp32' there and 'bf16' here"):
        fip.LocalRunner().run(replace(study, compute=BF16), tmp_path)
    fip.LocalRunner().run(replace(study, compute=fip.Compute(micro_batch=2)), tmp_path)
    assert len(analysis.load(tmp_path).paths) == 1
