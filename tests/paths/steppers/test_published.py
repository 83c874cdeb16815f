"""The published scheme against its equation; one-shot pruning."""

from __future__ import annotations

import pytest
import torch

from fipray.errors import UsageError
from fipray.paths import (
    OneShot,
    Published,
    Situation,
    Sparsify,
)
from fipray.testing import RestrictedStepperContract, StepperContract
from tests.problems import batch, mlp, problem


class TestPublished(StepperContract):
    stepper = Published()


class TestOneShot(RestrictedStepperContract):
    stepper = OneShot()


def test_the_published_step_is_the_normalised_penalty_gradient():
    where = problem(mlp(5, 6, 3))
    inputs, weights = batch(where, 8, 5), where.start + 0.05
    theirs = weights.clone().requires_grad_(True)
    p, q = where.network(theirs, inputs.inputs).softmax(1), where.network(where.start, inputs.inputs).softmax(1)
    (-(p * q + 1e-8).sqrt().sum(1).log().sum()).backward()
    assert theirs.grad is not None
    smallest_zeroed = Sparsify(0.5, ramp=1).restrict(where, weights, 1.0, inputs)
    u = theirs.grad + 0.1 * (weights - smallest_zeroed)
    made = Published().propose(Situation(where, Sparsify(0.5, ramp=None), weights, inputs, 1.0), {})
    torch.testing.assert_close(made.displacement, -0.01 * u / torch.linalg.vector_norm(u), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("wrong", [lambda: Published(length=0)])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        wrong()
