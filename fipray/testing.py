"""Contracts: what every stepper and every objective keeps, as tests that a class of yours inherits.

    from fipray.testing import StepperContract

    class TestMyStep(StepperContract):
        stepper = MyStep()

pytest then runs each truth of the contract on `MyStep()`, on small networks in float64 and in a second or less. For
assertions that show both sides, `pytest.register_assert_rewrite("fipray.testing")` in conftest.py, before the import.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from fipray.geometry import FisherRao, OutputGeometry, functional_distance
from fipray.networks import Network
from fipray.paths import (
    Batch,
    GradientDiversity,
    Objective,
    Problem,
    Proposal,
    Restriction,
    Situation,
    Sparsify,
    Stepper,
)
from fipray.paths.calls import gradient
from fipray.paths.stepper import State

NUM_INPUTS, NUM_HIDDEN, NUM_OUTPUTS = 6, 9, 4


class Flat:
    """An objective that is the same everywhere."""

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        return 0 * weights.sum()


class StepperContract:
    """Give `stepper`.

    On the way a stepper is asked for several steps, each from where the last one led. A stepper that knows nothing of
    the function's drift takes no step where the objective is flat; any other one goes towards the function.
    """

    stepper: Stepper

    def situation(self, objective: Objective, radius: float, seed: int = 0) -> Situation:
        """Some way off the start of a small network's path."""
        problem = small_problem(seed)
        weights = problem.start + 0.05 * normal(problem.network.num_weights, seed=seed + 1)
        return Situation(problem, objective, weights, small_batch(problem, 8), radius, 0.5, 0.1)

    def walked(self, made: Situation, num_steps: int) -> tuple[Situation, State]:
        """Where `num_steps` steps lead, and the state there."""
        state = self.stepper.begin(made.problem)
        for step in range(num_steps):
            proposal = self.stepper.propose(made, state)
            batch = small_batch(made.problem, 8, seed=step + 2)
            made = Situation(
                made.problem, made.objective, made.weights + proposal.displacement, batch, made.radius, 0.5, 0.1
            )
            state = proposal.state
        return made, state

    def proposed(self, made: Situation) -> Proposal:
        """The first step."""
        return self.stepper.propose(made, self.stepper.begin(made.problem))

    def test_a_step_never_exceeds_its_radius(self) -> None:
        for seed in range(3):
            for radius in (1e-4, 1e-2, 1.0):
                made, state = self.walked(self.situation(GradientDiversity(), radius, seed), seed)
                length = float(torch.linalg.vector_norm(self.stepper.propose(made, state).displacement))
                assert length <= radius * (1 + 1e-9), f"a step of length {length} under the radius {radius}"

    def test_a_step_is_finite_and_as_long_as_the_weights(self) -> None:
        made = self.situation(GradientDiversity(), 0.1)
        displacement = self.proposed(made).displacement
        assert displacement.shape == made.weights.shape
        assert displacement.dtype == made.weights.dtype
        assert bool(torch.isfinite(displacement).all())
        assert not displacement.requires_grad

    def test_a_step_touches_neither_the_weights_nor_the_state_that_it_is_given(self) -> None:
        made, state = self.walked(self.situation(GradientDiversity(), 0.1), 2)
        weights, before = made.weights.clone(), copied(state)
        self.stepper.propose(made, state)
        assert torch.equal(made.weights, weights)
        assert equal_states(state, before)

    def test_equal_arguments_give_equal_steps_bit_for_bit(self) -> None:
        """So that a path goes on from a state that was kept as if it had never stopped."""
        first, state = self.walked(self.situation(GradientDiversity(), 0.1), 2)
        one = self.stepper.propose(first, copied(state))
        again, state = self.walked(self.situation(GradientDiversity(), 0.1), 2)
        other = self.stepper.propose(again, state)
        assert torch.equal(one.displacement, other.displacement)
        assert one.predicted_gain == other.predicted_gain
        assert equal_states(one.state, other.state)

    def test_a_state_holds_tensors_alone_and_no_graph(self) -> None:
        for num_steps in range(3):
            _, state = self.walked(self.situation(GradientDiversity(), 0.1), num_steps)
            for name, value in state.items():
                assert isinstance(name, str)
                assert isinstance(value, Tensor), f"{name} is a {type(value).__name__}"
                assert not value.requires_grad, f"{name} requires a gradient"
                assert value.is_contiguous(), f"{name} is not contiguous, and files hold tensors that are"

    def test_the_predicted_gain_is_the_first_order_decrease_or_nothing(self) -> None:
        made = self.situation(GradientDiversity(), 1e-4)
        proposal = self.proposed(made)
        slope = gradient(GradientDiversity(), made.problem, made.weights, made.batch)
        expected = float(-(slope @ proposal.displacement))
        assert proposal.predicted_gain == 0 or abs(proposal.predicted_gain - expected) <= 1e-9 * abs(expected)

    def test_where_the_objective_is_flat_a_step_never_leads_away_from_the_function(self) -> None:
        for seed in range(3):
            made = self.situation(Flat(), 1e-3, seed)
            proposal = self.proposed(made)
            before, after = drift(made, made.weights), drift(made, made.weights + proposal.displacement)
            assert after <= before * (1 + 1e-12), f"a functional distance of {before} became {after}"
            assert proposal.predicted_gain == 0


class CorrectorContract(StepperContract):
    """For steppers that bring the function back: the `corrector` of `Corrected`. Give `stepper`."""

    def test_where_the_objective_is_flat_a_step_leads_towards_the_function(self) -> None:
        for seed in range(3):
            made = self.situation(Flat(), 1e-2, seed)
            after = drift(made, made.weights + self.proposed(made).displacement)
            assert after < drift(made, made.weights)


class RestrictedStepperContract(StepperContract):
    """For steppers that keep a restriction while they walk. Give `stepper`."""

    def test_zeros_of_a_sparse_network_stay_zero(self) -> None:
        made = self.situation(Sparsify(0.5), 0.1)
        sparse = Sparsify(0.5, ramp=1).restrict(made.problem, made.weights, 1.0, made.batch)
        made = Situation(made.problem, made.objective, sparse, made.batch, made.radius)
        assert bool((sparse == 0).any())
        for num_steps in range(3):
            there, state = self.walked(made, num_steps)
            assert not self.stepper.propose(there, state).displacement[sparse == 0].any()


class ObjectiveContract:
    """Give `objective`; `geometry` where it is not of classes. One whose `gradient` is an estimate overrides
    `allowed_error`, the error of a directional derivative in units of itself.
    """

    objective: Objective
    geometry: OutputGeometry = FisherRao()
    allowed_error: float = 1e-6

    def at(self, seed: int = 0) -> tuple[Problem, Tensor, Batch]:
        """A small problem, weights some way off its start, and a batch."""
        problem = small_problem(seed, self.geometry)
        weights = problem.start + 0.1 * normal(problem.network.num_weights, seed=seed + 2)
        return problem, weights, small_batch(problem, 7)

    def test_the_gradient_is_that_of_finite_differences(self) -> None:
        problem, weights, batch = self.at()
        direction, step = normal(len(weights), seed=3), 1e-6
        ahead, behind = (
            float(self.objective.value(problem, weights + sign * step * direction, batch).detach()) for sign in (1, -1)
        )
        slope = float(gradient(self.objective, problem, weights, batch) @ direction)
        assert abs(slope - (ahead - behind) / (2 * step)) <= self.allowed_error * max(1.0, abs(slope))

    def test_the_value_is_one_finite_number(self) -> None:
        problem, weights, batch = self.at()
        for where in (problem.start, weights):
            value = self.objective.value(problem, where, batch)
            assert value.shape == ()
            assert bool(torch.isfinite(value))

    def test_equal_arguments_give_equal_values_and_gradients_bit_for_bit(self) -> None:
        problem, weights, batch = self.at()
        kept = weights.clone()
        values = [float(self.objective.value(problem, weights, batch).detach()) for _ in range(2)]
        gradients = [gradient(self.objective, problem, weights, batch) for _ in range(2)]
        assert values[0] == values[1]
        assert torch.equal(*gradients)
        assert torch.equal(weights, kept), "an objective does not touch the weights that it is given"

    def test_the_gradient_is_finite_at_the_start_too(self) -> None:
        problem, _, batch = self.at()
        found = gradient(self.objective, problem, problem.start, batch)
        assert found.shape == problem.start.shape
        assert bool(torch.isfinite(found).all())


class RestrictedObjectiveContract(ObjectiveContract):
    """For objectives that are restrictions too. Give `objective`; `geometry` where it is not of classes."""

    def test_a_restriction_holds_where_it_was_made_and_its_tangent_is_a_projection(self) -> None:
        assert isinstance(self.objective, Restriction)
        problem, weights, batch = self.at()
        for progress in (0.0, 0.5, 1.0):
            allowed = self.objective.restrict(problem, weights, progress, batch)
            assert self.objective.restrict(problem, allowed, progress, batch) is allowed
            one, other = normal(len(weights), seed=4), normal(len(weights), seed=5)
            projected = self.objective.tangent(problem, allowed)
            along = projected(one)
            torch.testing.assert_close(projected(along), along)
            torch.testing.assert_close(along @ other, one @ projected(other))


def normal(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small_problem(seed: int = 0, geometry: OutputGeometry | None = None) -> Problem:
    """A tanh network of 103 weights, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(NUM_INPUTS, NUM_HIDDEN), nn.Tanh(), nn.Linear(NUM_HIDDEN, NUM_OUTPUTS))
    network = Network.of(module.double())
    return Problem(network, geometry=geometry)


def small_batch(problem: Problem, size: int, seed: int = 1) -> Batch:
    return replace(problem.batch(normal(size, NUM_INPUTS, seed=seed)), seed=seed)


def drift(made: Situation, weights: Tensor) -> float:
    """The functional distance of `weights` [P] to the start, on the situation's batch."""
    embedded = made.problem.geometry.embed(made.problem.network.outputs(weights, made.batch.inputs))
    return float(functional_distance(embedded, made.batch.reference))


def copied(state: State) -> State:
    return {name: value.clone() for name, value in state.items()}


def equal_states(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
