"""Kronecker-factored steps against dense factors, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from fipray.errors import UsageError
from fipray.geometry import Euclidean, Metric
from fipray.networks import Network
from fipray.paths import (
    Kronecker,
    Natural,
    Situation,
)
from fipray.testing import CorrectorContract, Flat, RestrictedStepperContract
from tests.margins import assert_below
from tests.paths.steppers.situations import Slope, off_start
from tests.problems import batch, linear, mlp, normal, problem


class TestKronecker(RestrictedStepperContract, CorrectorContract):
    stepper = Kronecker(refresh=2)


class TestKroneckerFactors:
    def test_the_step_on_one_layer_is_the_dense_solution_with_its_factors(self):
        """d = -(A (x) B + m I)^-1 (m t l + J^T e / N), B from the sensitivities that the batch draws, to 1e-9."""
        where, damping = problem(linear(5, 3), Euclidean()), 1e-2
        inputs = batch(where, 20, 5)
        situation = replace(off_start(where, inputs), objective=Slope(), radius=2.0)
        drawn = inputs.normal(20, 3)
        seen, reached = inputs.inputs.T @ inputs.inputs / 20, drawn.T @ drawn / 20
        dense = torch.kron(reached, seen) + damping * torch.eye(15, dtype=torch.float64)
        error = where.network(situation.weights, inputs.inputs) - inputs.reference
        slope = normal(15, seed=4)
        scaled = slope * situation.radius / torch.linalg.vector_norm(slope)
        right = damping * scaled + (error.T @ inputs.inputs).flatten() / 20
        made = Kronecker(damping).propose(situation, Kronecker().begin(where))
        torch.testing.assert_close(made.displacement, -torch.linalg.solve(dense, right), rtol=1e-9, atol=1e-9)
        assert_below(torch.linalg.vector_norm(made.displacement), situation.radius)

    def test_the_step_on_one_layer_and_many_inputs_is_the_natural_step(self):
        """There g = A (x) I, and B tends to I as 1 / sqrt(N): 3 x 3 numbers, each within 4 / sqrt(N)."""
        where = problem(linear(5, 3), Euclidean())
        inputs = batch(where, 100_000, 5)
        situation = replace(off_start(where, inputs), objective=Slope(), radius=2.0)
        made = Kronecker(0.1).propose(situation, Kronecker().begin(where)).displacement
        exact = Natural(0.1, iterations=60, chunk=100_000).propose(situation, {}).displacement
        assert_below(torch.linalg.vector_norm(made - exact) / torch.linalg.vector_norm(exact), 0.04)

    def test_the_diagonal_outside_layers_is_that_of_the_metric_on_average(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = Network.of(nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3)).double())
        where = problem(network)
        inputs, stepper = batch(where, 6, 4), Kronecker()
        rows = Metric(network, where.start, inputs.inputs, where.geometry).jacobian()
        scale = next(slice(slot.start, slot.stop) for slot in network.slots if slot.name == "1.weight")
        drawn = torch.stack(
            [
                stepper.propose(
                    Situation(where, Flat(), where.start, replace(inputs, seed=seed), 1.0), stepper.begin(where)
                ).state["diagonal"][scale]
                for seed in range(200)
            ]
        )
        ratios = drawn.mean(0) / (rows.square().sum(0)[scale] / 6)  # of means of 200 squares of normal numbers
        assert_below((ratios - 1).abs().max(), 0.35)

    def test_factors_are_updated_only_every_refresh_steps(self):
        where, stepper = problem(mlp(5, 6, 3)), Kronecker(refresh=3)
        states = [stepper.begin(where)]
        for seed in range(4):
            situation = off_start(where, replace(batch(where, 8, 5, seed=seed), seed=seed))
            states.append(stepper.propose(situation, states[-1]).state)
        factors = [state["in.0"] for state in states[1:]]
        assert [torch.equal(one, factors[0]) for one in factors] == [True, True, True, False]


@pytest.mark.parametrize(
    "wrong", [lambda: Kronecker(damping=0), lambda: Kronecker(refresh=0), lambda: Kronecker(memory=1.0)]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        wrong()
