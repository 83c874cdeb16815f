"""In-place writes by user code never change a path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import fipray as fip
from fipray.errors import UsageError
from fipray.paths import Batch, Problem
from tests.problems import mlp, normal


def given() -> dict[str, Any]:
    return {"anchors": normal(20, 4), "held_out": normal(9, 4, seed=1), "num_steps": 2, "batch_size": 10}


@dataclass(frozen=True)
class Writes:
    """`|w|^2`, and writes into what it is given."""

    into: str

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            {"weights": weights.detach(), "start": problem.start, "inputs": batch.inputs}[self.into].mul_(0.9)
        return weights.square().sum()


@pytest.mark.parametrize("stepper", [fip.steppers.Natural(), fip.steppers.FirstOrder(beta=0.1)])
@pytest.mark.parametrize(
    ("into", "what"), [("weights", "the weights"), ("start", "the start's weights"), ("inputs", "the inputs")]
)
def test_an_objective_that_writes_into_what_it_is_given_is_refused(into, what, stepper):
    with pytest.raises(UsageError, match=rf"Writes.value\(\) wrote into .*{what}.* in place"):
        fip.trace(mlp(4, 6, 3), Writes(into), stepper=stepper, **given())


def test_a_probe_and_a_listener_that_write_are_refused_and_leave_the_network_alone():
    network = mlp(4, 6, 3)
    before = network.weights.clone()
    with pytest.raises(UsageError, match="probe 'size' wrote into the weights"):
        fip.trace(
            network.at(before.clone()),
            fip.objectives.RandomWalk(),
            probes={"size": lambda w: float(w.mul_(0.5).sum())},
            **given(),
        )
    with pytest.raises(UsageError, match=r"on_point\(\) wrote into the weights"):
        fip.trace(
            network.at(before.clone()),
            fip.objectives.RandomWalk(),
            on_point=lambda point: point.weights.zero_(),
            **given(),
        )
    assert torch.equal(network.weights, before)


def test_what_writes_into_a_clone_is_fine():
    path = fip.trace(
        mlp(4, 6, 3),
        fip.objectives.RandomWalk(),
        probes={"size": lambda w: float(w.clone().mul_(0.5).sum())},
        **given(),
    )
    assert path.end.step == 2
