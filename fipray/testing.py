"""Contract tests for steppers and objectives of your own. A test class inherits them.

    from fipray.testing import StepperContract

    class TestMyStep(StepperContract):
        stepper = MyStep()

pytest then runs every test of the contract on `MyStep()`, on small networks in float64, in about a second. Failed
assertions show both sides after `pytest.register_assert_rewrite("fipray.testing")` in conftest.py, before the import.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from fipray.geometry import FisherRao, OutputGeometry, functional_distance
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
from fipray.paths.state import State

NUM_INPUTS, NUM_HIDDEN, NUM_OUTPUTS = 6, 9, 4


class Flat:
    """Objective that is constant."""

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        # Depends on the weights, since autograd raises for a value without a graph; a plain zero has none.
        return 0 * weights.sum()


class StepperContract:
    """Contract of every stepper. A subclass sets `stepper`.

    Some tests take several steps, each from the point where the last one led. Where the objective is flat, a stepper
    that does not measure the functional distance takes no step; any other one reduces it.
    """

    stepper: Stepper

    def situation(self, objective: Objective, radius: float, seed: int = 0) -> Situation:
        """Make a situation some way off the start of a small network's path.

        Args:
            objective: secondary objective.
            radius: largest length of the step.
            seed: seed of the network and of the way from its start.

        Returns:
            The situation, half way along a path of ten steps.
        """
        problem = small_problem(seed)
        # Off the start: exactly there the functional distance and its gradient vanish, which hides wrong signs.
        weights = problem.start + 0.05 * normal(problem.network.num_weights, seed=seed + 1)
        return Situation(problem, objective, weights, small_batch(problem, 8), radius, 0.5, 0.1)

    def walked(self, made: Situation, num_steps: int) -> tuple[Situation, State]:
        """Take steps without judging them.

        Args:
            made: situation of the first step.
            num_steps: number of steps.

        Returns:
            The situation after them, with a new batch, and the state of the stepper.
        """
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
        """Propose the first step of a path.

        Args:
            made: situation of the step.

        Returns:
            The proposal from the stepper's initial state.
        """
        return self.stepper.propose(made, self.stepper.begin(made.problem))

    def test_a_step_never_exceeds_its_radius(self) -> None:
        for seed in range(3):
            # From far below to far above the length of a natural step, so that the radius binds at least once.
            for radius in (1e-4, 1e-2, 1.0):
                made, state = self.walked(self.situation(GradientDiversity(), radius, seed), seed)
                length = float(torch.linalg.vector_norm(self.stepper.propose(made, state).displacement))
                # A displacement that is scaled to the radius may exceed it by rounding.
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
        # After two steps, because the state of many steppers is still empty or zero before the first.
        weights, before = made.weights.clone(), copied(state)
        self.stepper.propose(made, state)
        assert torch.equal(made.weights, weights)
        assert equal_states(state, before)

    def test_equal_arguments_give_equal_steps_bit_for_bit(self) -> None:
        """Otherwise a resumed path would differ from the uninterrupted one."""
        first, state = self.walked(self.situation(GradientDiversity(), 0.1), 2)
        one = self.stepper.propose(first, copied(state))
        # From a new situation, because the first one caches its gradient, which would hide a random one.
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
                assert value.is_contiguous(), f"{name} is not contiguous, as safetensors requires"

    def test_the_predicted_gain_is_the_first_order_decrease_or_nothing(self) -> None:
        made = self.situation(GradientDiversity(), 1e-4)
        proposal = self.proposed(made)
        slope = gradient(GradientDiversity(), made.problem, made.weights, made.batch)
        # Steppers that do not predict a gain return 0.
        expected = float(-(slope @ proposal.displacement))
        assert proposal.predicted_gain == 0 or abs(proposal.predicted_gain - expected) <= 1e-9 * abs(expected)

    def test_where_the_objective_is_flat_a_step_never_leads_away_from_the_function(self) -> None:
        for seed in range(3):
            made = self.situation(Flat(), 1e-3, seed)
            proposal = self.proposed(made)
            before, after = (
                distance_to_start(made, made.weights),
                distance_to_start(made, made.weights + proposal.displacement),
            )
            assert after <= before * (1 + 1e-12), f"a functional distance of {before} became {after}"
            assert proposal.predicted_gain == 0


class CorrectorContract(StepperContract):
    """Contract of steppers that bring the function back, such as the `corrector` of `Corrected`.

    A subclass sets `stepper`.
    """

    def test_where_the_objective_is_flat_a_step_leads_towards_the_function(self) -> None:
        for seed in range(3):
            made = self.situation(Flat(), 1e-2, seed)
            after = distance_to_start(made, made.weights + self.proposed(made).displacement)
            assert after < distance_to_start(made, made.weights)


class RestrictedStepperContract(StepperContract):
    """Contract of steppers whose steps keep a restriction. A subclass sets `stepper`."""

    def test_zeros_of_a_sparse_network_stay_zero(self) -> None:
        made = self.situation(Sparsify(0.5), 0.1)
        sparse = Sparsify(0.5, ramp=1).restrict(made.problem, made.weights, 1.0, made.batch)
        made = Situation(made.problem, made.objective, sparse, made.batch, made.radius)
        assert bool((sparse == 0).any())
        for num_steps in range(3):
            situation, state = self.walked(made, num_steps)
            assert not self.stepper.propose(situation, state).displacement[sparse == 0].any()


class ObjectiveContract:
    """Contract of every objective.

    A subclass sets `objective`, and `geometry` where outputs are not those of a classifier. Where `gradient` is an
    estimate it also sets `allowed_error`, the relative error of a directional derivative.
    """

    objective: Objective
    geometry: OutputGeometry = FisherRao()
    allowed_error: float = 1e-6

    def at(self, seed: int = 0) -> tuple[Problem, Tensor, Batch]:
        """Make a small problem and a point some way off its start.

        Args:
            seed: seed of the network and the weights.

        Returns:
            The problem, weights [P] and a batch of seven inputs.
        """
        problem = small_problem(seed, self.geometry)
        weights = problem.start + 0.1 * normal(problem.network.num_weights, seed=seed + 2)
        return problem, weights, small_batch(problem, 7)

    def test_the_gradient_is_that_of_finite_differences(self) -> None:
        problem, weights, batch = self.at()
        # Central differences: the step balances truncation, of order step^2, and rounding, of order eps / step.
        direction, step = normal(len(weights), seed=3), 1e-6
        ahead, behind = (
            float(self.objective.value(problem, weights + sign * step * direction, batch).detach()) for sign in (1, -1)
        )
        slope = float(gradient(self.objective, problem, weights, batch) @ direction)
        assert abs(slope - (ahead - behind) / (2 * step)) <= self.allowed_error * max(1.0, abs(slope))

    def test_the_value_is_one_finite_number(self) -> None:
        problem, weights, batch = self.at()
        # Objectives that compare with the start are often singular exactly there.
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
        assert torch.equal(weights, kept), "the objective changed the weights that it was given"

    def test_the_gradient_is_finite_at_the_start_too(self) -> None:
        problem, _, batch = self.at()
        found = gradient(self.objective, problem, problem.start, batch)
        assert found.shape == problem.start.shape
        assert bool(torch.isfinite(found).all())


class RestrictedObjectiveContract(ObjectiveContract):
    """Contract of objectives that are restrictions, too. A subclass sets the same as for `ObjectiveContract`."""

    def test_a_restriction_holds_where_it_was_made_and_its_tangent_is_a_projection(self) -> None:
        assert isinstance(self.objective, Restriction)
        problem, weights, batch = self.at()
        for progress in (0.0, 0.5, 1.0):
            allowed = self.objective.restrict(problem, weights, progress, batch)
            # By identity, as `walk` decides whether the weights have changed.
            assert self.objective.restrict(problem, allowed, progress, batch) is allowed
            one, other = normal(len(weights), seed=4), normal(len(weights), seed=5)
            projected = self.objective.tangent(problem, allowed)
            along = projected(one)
            torch.testing.assert_close(projected(along), along)
            torch.testing.assert_close(along @ other, one @ projected(other))


def normal(*shape: int, seed: int) -> Tensor:
    """Draw standard normal numbers.

    Args:
        shape: shape of the result.
        seed: seed of the draw.

    Returns:
        A float64 tensor on the CPU.
    """
    # A generator of its own, on the CPU: the global one would make tests depend on the order in which they run.
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small_problem(seed: int = 0, geometry: OutputGeometry | None = None) -> Problem:
    """Make the problem of a tanh network with 103 weights.

    Args:
        seed: seed of its weights.
        geometry: output geometry; FisherRao by default.

    Returns:
        A problem without anchors, in float64.
    """
    # Modules draw from the global generator, which is left as it was.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(NUM_INPUTS, NUM_HIDDEN), nn.Tanh(), nn.Linear(NUM_HIDDEN, NUM_OUTPUTS))
    return Problem(module.double(), geometry=geometry)


def small_batch(problem: Problem, size: int, seed: int = 1) -> Batch:
    """Draw a batch of random inputs.

    Args:
        problem: problem whose start gives the outputs that must stay.
        size: number of inputs.
        seed: seed of the inputs, and of the batch.

    Returns:
        The batch.
    """
    return replace(problem.batch(normal(size, NUM_INPUTS, seed=seed)), seed=seed)


def distance_to_start(made: Situation, weights: Tensor) -> float:
    """Functional distance to the start on the batch of a situation.

    Args:
        made: situation with the problem and the batch.
        weights: weights [P].

    Returns:
        The distance in units of the output geometry.
    """
    embedded = made.problem.geometry.embed(made.problem.network.outputs(weights, made.batch.inputs))
    return float(functional_distance(embedded, made.batch.reference))


def copied(state: State) -> State:
    """Copy the state of a stepper.

    Args:
        state: tensors by name.

    Returns:
        Clones by the same names.
    """
    return {name: value.clone() for name, value in state.items()}


def equal_states(one: State, other: State) -> bool:
    """Compare two states bit for bit.

    Args:
        one: tensors by name.
        other: tensors by name.

    Returns:
        True where names and tensors are equal.
    """
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
