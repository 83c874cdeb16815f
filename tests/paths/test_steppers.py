"""Steppers against closed forms, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from fipray import UsageError
from fipray.geometry import Euclidean, FisherRao, Metric, functional_distance
from fipray.paths import (
    Batch,
    Candidate,
    Corrected,
    Diversify,
    FirstOrderStep,
    InputNullSpaceStep,
    KroneckerStep,
    NaturalStep,
    OneShot,
    Problem,
    ProjectedStep,
    PublishedStep,
    ScheduledRadius,
    Situation,
    Sparsify,
    Switch,
    SwitchedRadius,
)
from fipray.paths.objective import gradient
from fipray.testing import CorrectorContract, RestrictedStepperContract, StepperContract
from tests.problems import batch, linear, mlp, normal, problem


class TestNaturalStep(RestrictedStepperContract, CorrectorContract):
    stepper = NaturalStep()


class TestNaturalStepBySampleSpace(RestrictedStepperContract, CorrectorContract):
    stepper = NaturalStep(iterations=None)


class TestProjectedStep(RestrictedStepperContract):
    stepper = ProjectedStep()


class TestProjectedStepByIteration(RestrictedStepperContract):
    stepper = ProjectedStep(dense=0, tolerance=1e-8)


@pytest.mark.parametrize("dense", [0, 1000])
@pytest.mark.parametrize("sparse", [False, True])
def test_a_projected_step_is_the_least_norm_solution_of_the_dense_jacobian(dense, sparse):
    """`d = -t l + J^+ (t J l - e)` with the pseudo-inverse of torch, restricted to what is not zero, to 1e-6."""
    where = problem(mlp(6, 14, 4))
    weights = where.start + 0.02 * normal(where.network.num_weights, seed=5)
    objective = Sparsify(0.3, ramp=1) if sparse else Diversify()
    weights = Sparsify(0.3, ramp=1).restrict(where, weights, 1.0) if sparse else weights
    inputs = batch(where, 8, 6)
    situation = Situation(where, objective, weights, inputs, 10.0)
    metric = Metric(where.network, weights, inputs.inputs, where.geometry)
    jacobian = metric.jacobian() * (weights != 0) if sparse else metric.jacobian()
    descent, drift = situation.descent, (metric.embedded - inputs.reference).flatten()
    expected = descent - torch.linalg.pinv(jacobian, rtol=1e-7) @ (jacobian @ descent + drift)
    made = ProjectedStep(dense=dense, tolerance=1e-9).propose(replace(situation, radius=10.0), {})
    expected = expected * min(1.0, 10.0 / float(expected.norm()))
    torch.testing.assert_close(made.displacement, expected, rtol=1e-5, atol=1e-6)


class TestNaturalStepStreamed(RestrictedStepperContract, CorrectorContract):
    stepper = NaturalStep(chunk=3)


class TestFirstOrderStep(RestrictedStepperContract, CorrectorContract):
    stepper = FirstOrderStep(beta=0.1)


class TestKroneckerStep(RestrictedStepperContract, CorrectorContract):
    stepper = KroneckerStep(refresh=2)


class TestInputNullSpaceStep(RestrictedStepperContract):
    stepper = InputNullSpaceStep(num_batches=2)


class TestCorrected(RestrictedStepperContract, CorrectorContract):
    stepper = Corrected(FirstOrderStep(), NaturalStep())


class TestSwitch(RestrictedStepperContract, CorrectorContract):
    stepper = Switch(FirstOrderStep(0.1), NaturalStep())


class TestSwitchNearTheEnd(RestrictedStepperContract, CorrectorContract):
    stepper = Switch(FirstOrderStep(0.1), NaturalStep(), at=0.3)


class TestPublishedStep(StepperContract):
    stepper = PublishedStep()


class TestOneShot(RestrictedStepperContract):
    stepper = OneShot()


@dataclass(frozen=True)
class Slope:
    """`<l, w>` with a fixed l."""

    seed: int = 4

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        return normal(len(weights), seed=self.seed) @ weights


@pytest.mark.parametrize(
    "stepper",
    [
        NaturalStep(damping=0, iterations=None),
        NaturalStep(damping=0, iterations=60),
        ProjectedStep(),
        ProjectedStep(dense=0, tolerance=1e-12),
    ],
)
def test_a_projected_step_on_a_linear_network_changes_no_output_to_rounding(stepper):
    where = problem(linear(10, 3), Euclidean())
    inputs = batch(where, 6, 10)
    made = stepper.propose(Situation(where, Slope(), where.start, inputs, 1.0), {})
    before = where.network(where.start, inputs.inputs)
    after = where.network(where.start + made.displacement, inputs.inputs)
    assert float(torch.linalg.vector_norm(made.displacement)) > 0.3
    torch.testing.assert_close(after, before, rtol=0, atol=1e-10)
    assert made.predicted_gain > 0


@pytest.mark.parametrize("iterations", [None, 200])
def test_from_the_start_the_natural_step_is_the_published_program_in_closed_form(iterations):
    """d is parallel to -m (g + m I)^-1 l with a dense g, to 1e-8."""
    where, damping = problem(mlp(5, 6, 3)), 1e-2
    inputs = batch(where, 8, 5)
    jacobian = Metric(where.network, where.start, inputs.inputs, where.geometry).jacobian()
    dense = jacobian.T @ jacobian / 8 + damping * torch.eye(where.network.num_weights, dtype=torch.float64)
    slope = gradient(Diversify(), where, where.start + 0.1, inputs)
    made = NaturalStep(damping, iterations).propose(Situation(where, Slope(), where.start, inputs, 0.1), {})
    slope = normal(where.network.num_weights, seed=4)
    expected = -damping * torch.linalg.solve(dense, slope) * 0.1 / torch.linalg.vector_norm(slope)
    torch.testing.assert_close(made.displacement, expected, rtol=1e-8, atol=1e-10)


def test_away_from_the_function_the_natural_step_brings_it_back_as_gauss_newton_does():
    """With no slope, d = -J^T (J J^T + N m I)^-1 (s(w) - s(w0)), dense, to 1e-9."""

    @dataclass(frozen=True)
    class Flat:
        def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
            return 0 * weights.sum()

    where, damping = problem(mlp(5, 6, 3)), 1e-3
    inputs = batch(where, 4, 5)
    weights = where.start + 0.02 * normal(where.network.num_weights, seed=5)
    metric = Metric(where.network, weights, inputs.inputs, where.geometry)
    jacobian, drift = metric.jacobian(), (metric.embedded - inputs.reference).flatten()
    shifted = jacobian @ jacobian.T + 4 * damping * torch.eye(12, dtype=torch.float64)
    expected = -jacobian.T @ torch.linalg.solve(shifted, drift)
    made = NaturalStep(damping, iterations=None).propose(Situation(where, Flat(), weights, inputs, 10.0), {})
    torch.testing.assert_close(made.displacement, expected, rtol=1e-9, atol=1e-10)
    nearer = functional_distance(
        FisherRao().embed(where.network(weights + made.displacement, inputs.inputs)), inputs.reference
    )
    assert float(nearer) < 0.2 * float(functional_distance(metric.embedded, inputs.reference))


def test_first_order_steps_are_adams():
    """Three steps of the stepper against torch.optim.Adam on the same function."""
    where, radius, beta = problem(mlp(5, 6, 3)), 1e-2, 0.3
    inputs, stepper = batch(where, 8, 5), FirstOrderStep(beta=beta)
    start = where.start + 0.05 * normal(where.network.num_weights, seed=5)
    theirs = start.clone().requires_grad_(True)
    adam = torch.optim.Adam([theirs], lr=radius / where.network.num_weights**0.5)
    ours, state = start, stepper.begin(where)
    for _ in range(3):
        adam.zero_grad()
        embedded = where.geometry.embed(where.network(theirs, inputs.inputs))
        distance = (embedded - inputs.reference).square().sum(1).mean()
        (distance + beta * Diversify().value(where, theirs, inputs)).backward()
        adam.step()
        made = stepper.propose(Situation(where, Diversify(), ours, inputs, radius), state)
        ours, state = ours + made.displacement, made.state
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-9, atol=1e-9)


def test_the_published_step_is_the_normalised_penalty_gradient():
    where = problem(mlp(5, 6, 3))
    inputs, weights = batch(where, 8, 5), where.start + 0.05
    theirs = weights.clone().requires_grad_(True)
    p, q = where.network(theirs, inputs.inputs).softmax(1), where.network(where.start, inputs.inputs).softmax(1)
    (-(p * q + 1e-8).sqrt().sum(1).log().sum()).backward()
    assert theirs.grad is not None
    smallest_zeroed = Sparsify(0.5, ramp=1).restrict(where, weights, 1.0)
    u = theirs.grad + 0.1 * (weights - smallest_zeroed)
    made = PublishedStep().propose(Situation(where, Sparsify(0.5, ramp=None), weights, inputs, 1.0), {})
    torch.testing.assert_close(made.displacement, -0.01 * u / torch.linalg.vector_norm(u), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: NaturalStep(damping=-1),
        lambda: NaturalStep(iterations=0),
        lambda: FirstOrderStep(beta=-0.1),
        lambda: FirstOrderStep(decay=1.0),
        lambda: FirstOrderStep(beta=0.1, final_beta=0.2),
        lambda: PublishedStep(length=0),
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        wrong()


def test_beta_falls_by_the_same_factor_each_step():
    stepper = FirstOrderStep(beta=0.4, final_beta=0.1)
    assert [stepper.beta_after(progress) for progress in (0, 0.5, 1)] == pytest.approx([0.4, 0.2, 0.1])
    assert FirstOrderStep(beta=0.4).beta_after(1.0) == 0.4


def test_each_part_of_a_switched_path_walks_from_0_to_1():
    where = problem(mlp(5, 6, 3))
    whole = [
        Situation(where, Slope(), where.start, batch(where, 4, 5), 1.0, progress=step / 10, share=0.1)
        for step in range(1, 11)
    ]
    parts = [situation.part_of(0.8) for situation in whole]
    assert [part.progress for part in parts] == pytest.approx([n / 8 for n in range(1, 9)] + [0.5, 1.0])
    assert [part.share for part in parts] == pytest.approx([1 / 8] * 8 + [1 / 2] * 2)


def test_a_radius_that_is_switched_falls_to_its_final_value_before_the_switch():
    where = problem(mlp(5, 6, 3))
    inputs, control = batch(where, 4, 5), SwitchedRadius(ScheduledRadius(0.1), ScheduledRadius(0.05), at=0.5)
    radii = [
        control.judge(
            Candidate(
                Situation(where, Slope(), where.start, inputs, 1.0, progress=step / 8, share=1 / 8),
                where.start,
                0.0,
                inputs,
            )
        ).radius
        for step in range(1, 9)
    ]
    first = float(torch.linalg.vector_norm(where.start))
    half_cosine = [(1 + math.cos(math.pi * n / 4)) / 2 for n in range(1, 5)]
    expected = [0.1 * r for r in half_cosine[:3]] + [0.05] + [0.05 * r for r in half_cosine]
    assert radii == pytest.approx([first * r for r in expected], abs=1e-9)
