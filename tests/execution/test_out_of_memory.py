"""Studies whose passes through the network run out of memory above a few inputs, in every stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import fipray as fip
from fipray import analysis, recipes
from fipray.execution.failures import sentence_of
from fipray.study import AccuracyLoss, Agreement, RobustAgreement
from tests.recipes.conftest import small_data, trained
from tests.recipes.test_compute import near
from tests.recipes.test_learn import tasks

LINF = fip.ThreatModel("linf", 0.3, -10.0, 10.0)
FEW = 5


class Short(nn.Module):
    """Network that has no memory for a pass of more than `largest` inputs, in any of its copies."""

    largest = 10**6

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        if len(inputs) > Short.largest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.inner(inputs)


def study(module: nn.Module) -> fip.Study:
    settings = {"num_steps": 3, "batch_size": 8, "save_at": fip.SaveAt(2)}
    paths = (
        fip.PathSpec("sparse", fip.objectives.Sparsify(0.5), stepper=fip.steppers.FirstOrder(), **settings),
        fip.PathSpec(
            "penalty",
            fip.objectives.InputGradientPenalty(),
            stepper=fip.steppers.Natural(iterations=64),  # fewer differ where a batch is divided
            radius=fip.radii.Adaptive(1e-2, tolerance=0.5),
            **settings,
        ),
        fip.PathSpec(
            "distilled",
            fip.objectives.AdversarialDistillation(fip.objectives.Adversary(LINF, num_steps=2)),
            stepper=fip.steppers.FirstOrder(beta=1.0),
            **settings,
        ),
        fip.PathSpec("projected", fip.objectives.RandomWalk(), stepper=fip.steppers.Projected(), **settings),
    )
    measures = {
        "agreement": Agreement(num_examples=100),
        "loss": AccuracyLoss(100),
        "robust": fip.study.RobustAccuracy(LINF, num_examples=40),
        "robust_agreement": RobustAgreement(LINF, num_examples=40),
    }
    attacks = (fip.attacks.PGD(3), fip.attacks.RandomSearch(10))
    given = small_data(ood_inputs=np.zeros((30, 8)))
    names = ("anchors", "held_out", "test_inputs")
    return fip.Study(
        "short",
        module,
        replace(given, **{name: getattr(given, name).astype(np.float64) for name in names}),
        paths,
        ensembles=(fip.EnsembleSpec("both", ("base", "sparse", "penalty")),),
        evaluation=fip.Evaluation(LINF, attacks, num_examples=60),
        measures=measures,
    )


@pytest.mark.slow
def test_every_stage_of_a_study_goes_on_with_smaller_passes_and_the_same_results(monkeypatch, tmp_path):
    found = []
    for largest in (10**6, FEW):
        monkeypatch.setattr(Short, "largest", largest)
        fip.LocalRunner().run(study(Short(trained().double()).eval()), tmp_path / str(largest))
        found.append(analysis.load(tmp_path / str(largest)))
    whole, parts = found
    assert set(parts.paths["outcome_kind"]) == {"completed"}
    for name in ("sparse", "penalty", "distilled", "projected"):
        one, other = (torch.from_numpy(results.weights(name)) for results in (whole, parts))
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    for table in ("points", "point_measures", "robustness", "measures", "transfer"):
        # Without texts: IDs hash what the module reads, the limit among it.
        one, other = (getattr(results, table).select_dtypes("number") for results in found)
        one, other = (rows[[name for name in rows if name != "seconds"]] for rows in (one, other))
        pd.testing.assert_frame_equal(one, other, rtol=1e-6, atol=1e-9)


def test_a_measure_that_attacks_needs_no_more_memory_than_the_passes_that_fit(monkeypatch):
    network = fip.Network.of(Short(trained()).eval())
    inputs, labels = (torch.from_numpy(given) for given in (small_data().test_inputs, small_data().test_labels))
    whole = RobustAgreement(LINF, num_examples=40).measured_on(network, network.weights, inputs, labels)
    monkeypatch.setattr(Short, "largest", FEW)
    assert RobustAgreement(LINF, num_examples=40).measured_on(network, network.weights, inputs, labels) == whole
    assert network.micro_batch == FEW


RECIPES: dict[str, Callable[[nn.Module, fip.Data], recipes.Recipe]] = {
    "prune": lambda module, data: recipes.prune(module, data, sparsity=0.5, budget={"steps": 3}, radius=0.05),
    "robust-ensemble": lambda module, data: recipes.robust_ensemble(
        module, data, members=2, budget={"steps": 3}, radius=0.05, num_examples=10
    ),
    "learn": lambda module, data: recipes.learn(
        module, tasks(3), data, num_stored=60, budget={"steps": 3}, beta=60.0, rate=1e-3
    ),
    "connect": lambda module, data: recipes.connect(module, Short(near()), data, budget={"steps": 3}, batch_size=16),
}


@pytest.mark.parametrize(
    "name", [name if name == "prune" else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES]
)
def test_every_stage_of_a_recipe_goes_on_with_smaller_passes(name, monkeypatch, tmp_path):
    monkeypatch.setattr(Short, "largest", FEW)
    recipe = RECIPES[name](Short(trained()).eval(), small_data())
    results = recipe.run(tmp_path)
    assert set(results.paths["outcome_kind"]) <= {"completed", "stopped"}
    assert recipe.outcome(results)


def test_a_job_that_does_not_fit_in_any_case_says_what_to_do():
    message = sentence_of(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 40.00 GiB"))
    assert message.startswith("OutOfMemoryError: CUDA out of memory. Tried to allocate 40.00 GiB")
    assert "it is one input, or the weights and the stepper's copies of them, that do not fit: use fewer" in message
    assert "do not fit" in sentence_of(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"))
    assert "do not fit" in sentence_of(MemoryError())
    assert "do not fit" not in sentence_of(RuntimeError("shapes differ"))
