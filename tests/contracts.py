"""Contracts: what every implementation of a protocol keeps. Inherit a class and give it yours."""

from __future__ import annotations

import torch

from fipray.geometry import FisherRao
from fipray.paths import Diversify, Objective, Situation, Sparsify, Stepper
from fipray.paths.objective import gradient
from tests.problems import batch, generator, mlp, normal, problem


class StepperContract:
    """Give `stepper`."""

    stepper: Stepper

    def propose(self, objective: Objective, radius: float, seed: int = 0, sparse: bool = False):
        where = problem(mlp(6, 9, 4, seed=seed))
        weights = where.start + 0.05 * normal(where.network.num_weights, seed=seed + 1)
        if sparse:
            weights = Sparsify(0.5, ramp=1).restrict(where, weights, 1.0)
        before = weights.clone()
        made = self.stepper.propose(
            Situation(where, objective, weights, batch(where, 8, 6), radius), self.stepper.begin(where)
        )
        assert torch.equal(weights, before), "a stepper does not touch the weights that it is given"
        return where, weights, made

    def test_a_step_never_exceeds_its_radius(self):
        for seed in range(3):
            for radius in (1e-4, 1e-2, 1.0):
                _, _, made = self.propose(Diversify(), radius, seed)
                assert float(torch.linalg.vector_norm(made.displacement)) <= radius * (1 + 1e-9)

    def test_a_step_is_finite_and_as_long_as_the_weights(self):
        where, _, made = self.propose(Diversify(), 0.1)
        assert made.displacement.shape == (where.network.num_weights,)
        assert bool(torch.isfinite(made.displacement).all())
        assert not made.displacement.requires_grad

    def test_equal_arguments_give_equal_steps(self):
        first, second = (self.propose(Diversify(), 0.1)[2] for _ in range(2))
        assert torch.equal(first.displacement, second.displacement)
        assert first.predicted_gain == second.predicted_gain

    def test_the_predicted_gain_is_the_first_order_decrease_or_nothing(self):
        where, weights, made = self.propose(Diversify(), 1e-4)
        slope = gradient(Diversify(), where, weights, batch(where, 8, 6))
        expected = float(-(slope @ made.displacement))
        assert made.predicted_gain == 0 or abs(made.predicted_gain - expected) <= 1e-9 * abs(expected)


class RestrictedStepperContract(StepperContract):
    """For steppers that keep a restriction while they walk."""

    def test_zeros_of_a_sparse_network_stay_zero(self):
        _, weights, made = self.propose(Sparsify(0.5), 0.1, sparse=True)
        assert bool((weights == 0).any())
        assert not made.displacement[weights == 0].any()


class ObjectiveContract:
    """Give `objective`."""

    objective: Objective

    def test_the_gradient_is_that_of_finite_differences(self):
        where = problem(mlp(5, 6, 3))
        weights = where.start + 0.1 * normal(where.network.num_weights, seed=2)
        inputs, direction, step = batch(where, 7, 5), normal(where.network.num_weights, seed=3), 1e-6
        ahead, behind = (
            float(self.objective.value(where, weights + sign * step * direction, inputs).detach()) for sign in (1, -1)
        )
        slope = float(gradient(self.objective, where, weights, inputs) @ direction)
        assert abs(slope - (ahead - behind) / (2 * step)) <= 1e-6 * max(1.0, abs(slope))

    def test_the_value_is_one_finite_number(self):
        where = problem(mlp(5, 6, 3), FisherRao())
        value = self.objective.value(where, where.start, batch(where, 7, 5))
        assert value.shape == ()
        assert bool(torch.isfinite(value))


def drawn_twice(size: int) -> bool:
    """Whether equal generators draw equal batches."""
    where = problem(mlp(5, 3))
    everything = batch(where, 50, 5)
    return torch.equal(everything.draw(size, generator(3)).inputs, everything.draw(size, generator(3)).inputs)
