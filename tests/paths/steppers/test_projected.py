"""Projected steps against the dense pseudo-inverse, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fipray.geometry import Euclidean, Metric
from fipray.paths import (
    GradientDiversity,
    Natural,
    Projected,
    Situation,
    Sparsify,
)
from fipray.testing import RestrictedStepperContract
from tests.margins import assert_above
from tests.paths.steppers.situations import Slope
from tests.problems import batch, linear, mlp, normal, problem


class TestProjected(RestrictedStepperContract):
    stepper = Projected()


class TestProjectedByIteration(RestrictedStepperContract):
    stepper = Projected(dense=0, tolerance=1e-8)


@pytest.mark.parametrize("dense", [0, 1000])
@pytest.mark.parametrize("sparse", [False, True])
def test_a_projected_step_is_the_least_norm_solution_of_the_dense_jacobian(dense, sparse):
    """`d = -t l + J^+ (t J l - e)` with the pseudo-inverse of torch, restricted to what is not zero, to 1e-6."""
    where = problem(mlp(6, 14, 4))
    weights = where.start + 0.02 * normal(where.network.num_weights, seed=5)
    objective = Sparsify(0.3, ramp=1) if sparse else GradientDiversity()
    weights = Sparsify(0.3, ramp=1).restrict(where, weights, 1.0, batch(where, 8, 6)) if sparse else weights
    inputs = batch(where, 8, 6)
    situation = Situation(where, objective, weights, inputs, 10.0)
    metric = Metric(where.network, weights, inputs.inputs, where.geometry)
    jacobian = metric.jacobian() * (weights != 0) if sparse else metric.jacobian()
    descent, drift = situation.descent, (metric.embedded - inputs.reference).flatten()
    expected = descent - torch.linalg.pinv(jacobian, rtol=1e-7) @ (jacobian @ descent + drift)
    made = Projected(dense=dense, tolerance=1e-9).propose(replace(situation, radius=10.0), {})
    expected = expected * min(1.0, 10.0 / float(expected.norm()))
    torch.testing.assert_close(made.displacement, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "stepper",
    [
        Natural(damping=0, iterations=None),
        Natural(damping=0, iterations=60),
        Projected(),
        Projected(dense=0, tolerance=1e-12),
    ],
)
def test_a_projected_step_on_a_linear_network_changes_no_output_to_rounding(stepper):
    where = problem(linear(30, 3), Euclidean())
    inputs = batch(where, 6, 30)
    made = stepper.propose(Situation(where, Slope(), where.start, inputs, 1.0), {})
    before = where.network(where.start, inputs.inputs)
    after = where.network(where.start + made.displacement, inputs.inputs)
    assert_above(torch.linalg.vector_norm(made.displacement), 0.5)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-10)
    assert made.predicted_gain > 0
