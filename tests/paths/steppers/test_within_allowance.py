"""First-order steps whose beta follows the loss of accuracy on held-out inputs."""

from __future__ import annotations

import pytest
import torch

import fipray as fip
from fipray.errors import UsageError
from fipray.paths import FirstOrder, GradientDiversity, Situation, WithinAllowance
from fipray.testing import StepperContract
from tests.problems import batch, mlp, normal


def with_held_out() -> fip.Problem:
    return fip.Problem(mlp(5, 6, 3), normal(20, 5, seed=1), normal(30, 5, seed=2))


class TestWithinAllowance(StepperContract):
    stepper = WithinAllowance(FirstOrder(beta=0.1), allowance=0.05)


def beta_after(stepper: WithinAllowance, weights: torch.Tensor, where: fip.Problem, progress: float) -> float:
    situation = Situation(where, GradientDiversity(), weights, batch(where, 8, 5), 1e-2, progress, 0.01)
    state = stepper.propose(situation, stepper.begin(where)).state
    return float(state["beta of the allowance"])


def test_beta_grows_within_the_allowance_and_falls_beyond_it():
    where = with_held_out()
    stepper = WithinAllowance(FirstOrder(beta=0.5), allowance=0.01, after=0.5, num_looks=5, factor=2.0)
    turned = -where.start  # other classes on some held-out inputs
    assert stepper.loss(where, where.start) == 0.0
    assert stepper.loss(where, turned) > 0.01
    assert beta_after(stepper, where.start, where, 0.5) == 1.0
    assert beta_after(stepper, turned, where, 0.5) == 0.25
    assert beta_after(stepper, turned, where, 0.45) == 0.5  # before the first look
    assert beta_after(stepper, turned, where, 0.55) == 0.5  # between two looks: every tenth step


def test_loss_is_the_mean_drop_of_the_base_networks_probability():
    where = with_held_out()
    assert where.held_out is not None
    before = where.network.outputs(where.start, where.held_out.inputs).softmax(1)
    own = where.network.outputs(-where.start, where.held_out.inputs).argmax(1)
    expected = (before.amax(1) - before[torch.arange(len(own)), own]).mean()
    found = WithinAllowance(FirstOrder(beta=0.5), allowance=0.01).loss(where, -where.start)
    assert found == pytest.approx(float(expected), abs=1e-12)


def test_allowance_out_of_range_is_refused():
    for given in ({"allowance": 0.0}, {"allowance": 0.1, "factor": 1.0}, {"allowance": 0.1, "after": 1.0}):
        with pytest.raises(UsageError):
            WithinAllowance(FirstOrder(beta=0.5), **given)
