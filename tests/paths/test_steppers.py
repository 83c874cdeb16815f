"""Steppers against closed forms, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from fipray.errors import NetworkError, UsageError
from fipray.geometry import Euclidean, FisherRao, Metric, StreamedMetric, functional_distance
from fipray.networks import Network
from fipray.paths import (
    Batch,
    Candidate,
    Corrected,
    FirstOrder,
    GradientDiversity,
    InputNullSpace,
    Kronecker,
    Natural,
    OneShot,
    Problem,
    Projected,
    Published,
    Scheduled,
    Situation,
    Sparsify,
    Switch,
    Switched,
    WeightedSum,
)
from fipray.paths.calls import gradient
from fipray.paths.objective import Asked
from fipray.testing import CorrectorContract, Flat, RestrictedStepperContract, StepperContract
from tests.margins import assert_above, assert_below
from tests.problems import batch, generator, linear, mlp, normal, problem


class TestNaturalStep(RestrictedStepperContract, CorrectorContract):
    stepper = Natural()


class TestNaturalStepBySampleSpace(RestrictedStepperContract, CorrectorContract):
    stepper = Natural(iterations=None)


class TestProjectedStep(RestrictedStepperContract):
    stepper = Projected()


class TestProjectedStepByIteration(RestrictedStepperContract):
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


class TestNaturalStepStreamed(RestrictedStepperContract, CorrectorContract):
    stepper = Natural(chunk=3)


class TestFirstOrderStep(RestrictedStepperContract, CorrectorContract):
    stepper = FirstOrder(beta=0.1)


class TestKroneckerStep(RestrictedStepperContract, CorrectorContract):
    stepper = Kronecker(refresh=2)


class TestInputNullSpaceStep(RestrictedStepperContract):
    stepper = InputNullSpace(num_batches=2)


class TestCorrected(RestrictedStepperContract, CorrectorContract):
    stepper = Corrected(FirstOrder(), Natural())


class TestSwitch(RestrictedStepperContract, CorrectorContract):
    stepper = Switch(FirstOrder(0.1), Natural())


class TestSwitchNearTheEnd(RestrictedStepperContract, CorrectorContract):
    stepper = Switch(FirstOrder(0.1), Natural(), at=0.3)


class TestPublishedStep(StepperContract):
    stepper = Published()


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


@pytest.mark.parametrize("iterations", [None, 200])
def test_from_the_start_the_natural_step_is_the_published_program_in_closed_form(iterations):
    """d is parallel to -m (g + m I)^-1 l with a dense g, to 1e-8."""
    where, damping = problem(mlp(5, 6, 3)), 1e-2
    inputs = batch(where, 8, 5)
    jacobian = Metric(where.network, where.start, inputs.inputs, where.geometry).jacobian()
    dense = jacobian.T @ jacobian / 8 + damping * torch.eye(where.network.num_weights, dtype=torch.float64)
    slope = gradient(GradientDiversity(), where, where.start + 0.1, inputs)
    made = Natural(damping, iterations).propose(Situation(where, Slope(), where.start, inputs, 0.1), {})
    slope = normal(where.network.num_weights, seed=4)
    expected = -damping * torch.linalg.solve(dense, slope) * 0.1 / torch.linalg.vector_norm(slope)
    torch.testing.assert_close(made.displacement, expected, rtol=1e-8, atol=1e-10)


def test_away_from_the_function_the_natural_step_brings_it_back_as_gauss_newton_does():
    """With no slope, d = -J^T (J J^T + N m I)^-1 (s(w) - s(w0)), dense, to 1e-9."""

    where, damping = problem(mlp(5, 6, 3)), 1e-3
    inputs = batch(where, 4, 5)
    weights = where.start + 0.02 * normal(where.network.num_weights, seed=5)
    metric = Metric(where.network, weights, inputs.inputs, where.geometry)
    jacobian, drift = metric.jacobian(), (metric.embedded - inputs.reference).flatten()
    shifted = jacobian @ jacobian.T + 4 * damping * torch.eye(12, dtype=torch.float64)
    expected = -jacobian.T @ torch.linalg.solve(shifted, drift)
    made = Natural(damping, iterations=None).propose(Situation(where, Flat(), weights, inputs, 10.0), {})
    torch.testing.assert_close(made.displacement, expected, rtol=1e-9, atol=1e-10)
    nearer = functional_distance(
        FisherRao().embed(where.network(weights + made.displacement, inputs.inputs)), inputs.reference
    )
    assert_below(nearer / functional_distance(metric.embedded, inputs.reference), 0.2)


@pytest.mark.parametrize(("held", "num_held"), [(1.0, 8), (0.3, 3)])
def test_first_order_steps_are_adams(held, num_held):
    """Three steps of the stepper against torch.optim.Adam on the same function."""
    where, radius, beta = problem(mlp(5, 6, 3)), 1e-2, 0.3
    inputs, stepper = batch(where, 8, 5), FirstOrder(beta=beta, held=held)
    few = inputs.first(num_held)
    start = where.start + 0.05 * normal(where.network.num_weights, seed=5)
    theirs = start.clone().requires_grad_(True)
    adam = torch.optim.Adam([theirs], lr=radius / where.network.num_weights**0.5)
    ours, state = start, stepper.begin(where)
    for _ in range(3):
        adam.zero_grad()
        embedded = where.geometry.embed(where.network(theirs, few.inputs))
        distance = (embedded - few.reference).square().sum(1).mean()
        (distance + beta * GradientDiversity().value(where, theirs, inputs)).backward()
        adam.step()
        made = stepper.propose(Situation(where, GradientDiversity(), ours, inputs, radius), state)
        ours, state = ours + made.displacement, made.state
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-9, atol=1e-9)


def test_in_the_limit_of_warm_classes_first_order_steps_are_adams_on_the_squared_distance_of_logits():
    where, radius = problem(mlp(5, 6, 3)), 1e-2
    inputs, stepper = batch(where, 8, 5), FirstOrder(temperature=math.inf)
    start = where.start + 0.05 * normal(where.network.num_weights, seed=5)
    theirs = start.clone().requires_grad_(True)
    adam = torch.optim.Adam([theirs], lr=radius / where.network.num_weights**0.5)
    ours, state = start, stepper.begin(where)
    for _ in range(3):
        adam.zero_grad()
        difference = where.network(theirs, inputs.inputs) - where.network(where.start, inputs.inputs)
        (difference - difference.mean(1, keepdim=True)).square().mean().backward()
        adam.step()
        made = stepper.propose(Situation(where, GradientDiversity(), ours, inputs, radius), state)
        ours, state = ours + made.displacement, made.state
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-9, atol=1e-9)
    with pytest.raises(UsageError, match="FisherRao"):
        stepper.begin(problem(mlp(5, 6, 3), geometry=Euclidean()))


@pytest.mark.parametrize("temperature", [1.0, 3.0, math.inf])
def test_on_some_outputs_the_distance_is_between_what_is_said_of_these(temperature):
    """Of four classes the function is about two: Adam's moments are of the distance between the softmax over them."""
    where, radius = problem(mlp(5, 6, 4)), 1e-2
    inputs, stepper = batch(where, 8, 5), FirstOrder(temperature=temperature, outputs=2)
    start = (where.start + 0.05 * normal(where.network.num_weights, seed=5)).requires_grad_(True)
    now, before = (where.network(weights, inputs.inputs)[:, :2] for weights in (start, where.start))
    if math.isinf(temperature):
        difference = ((now - before) - (now - before).mean(1, keepdim=True)) / 2**0.5
    else:
        now, before = (2 * (outputs / temperature).softmax(1).sqrt() for outputs in (now, before))
        difference = temperature * (now - before)
    (slope,) = torch.autograd.grad(difference.square().sum(1).mean(), start)
    made = stepper.propose(Situation(where, GradientDiversity(), start.detach(), inputs, radius), stepper.begin(where))
    torch.testing.assert_close(made.state["mean"], 0.1 * slope, rtol=1e-9, atol=1e-12)
    with pytest.raises(UsageError, match="at least 1 output"):
        FirstOrder(outputs=0)


def test_ever_warmer_classes_come_to_the_limit():
    where = problem(mlp(5, 6, 4))
    inputs, start = batch(where, 8, 5), where.start + 0.05 * normal(where.network.num_weights, seed=5)
    slopes = [
        stepper.propose(Situation(where, GradientDiversity(), start, inputs, 1e-2), stepper.begin(where)).state["mean"]
        for stepper in (FirstOrder(temperature=1e4), FirstOrder(temperature=math.inf))
    ]
    assert_below((slopes[0] - slopes[1]).norm() / slopes[1].norm(), 1e-3)
    for refused in (0.0, -1.0):
        with pytest.raises(UsageError, match="temperature is above 0"):
            FirstOrder(temperature=refused)


class _LargeOutputs:
    def value(self, problem, weights, batch):
        return -problem.network(weights, batch.inputs).square().mean()


def test_with_the_statistics_of_batches_first_order_steps_are_adams_in_training():
    """Three steps against torch.optim.Adam on a module in training: the points, their statistics folded into scale and
    shift, compute what the module then computes in evaluation."""
    module = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()
    where, radius, beta, objective = problem(Network.of(module)), 0.1, 0.3, _LargeOutputs()
    start = where.start + 0.05 * normal(where.network.num_weights, seed=5)
    theirs, stepper = where.network.module_at(start).train(), FirstOrder(beta=beta, batch_statistics=True)
    adam = torch.optim.Adam(theirs.parameters(), lr=radius / where.network.num_weights**0.5)
    ours, state = start, stepper.begin(where)
    for seed in range(3):
        inputs = batch(where, 8, 5, seed=seed)
        module = theirs.eval()
        in_evaluation = Network.of(module).weights.requires_grad_(True)  # the objective sees the statistics frozen
        value = objective.value(
            Problem(Network.of(module).at(where.start), geometry=where.geometry), in_evaluation, inputs
        )
        far = torch.autograd.grad(value, in_evaluation)[0].split([p.numel() for p in theirs.parameters()])
        theirs.train()
        adam.zero_grad()
        (where.geometry.embed(theirs(inputs.inputs)) - inputs.reference).square().sum(1).mean().backward()
        for parameter, its in zip(theirs.parameters(), far, strict=True):
            parameter.grad += beta * its.view_as(parameter)
        adam.step()
        made = stepper.propose(Situation(where, objective, ours, inputs, radius), state)
        ours, state = ours + made.displacement, made.state
    seen = normal(20, 5, seed=9)
    torch.testing.assert_close(where.network(ours, seen), theirs.eval()(seen).detach(), rtol=1e-8, atol=1e-8)
    with pytest.raises(NetworkError, match="BatchNorm"):
        stepper.begin(problem(mlp(5, 6, 3)))


class _SaysWhatItAsks(_LargeOutputs):
    def asks(self, problem, weights, batch):
        return Asked(batch.inputs + 1, lambda outputs: -outputs.square().mean())


def test_an_objective_of_outputs_sees_the_statistics_of_batches_too():
    """Two steps against torch.optim.Adam: held inputs and those that the objective asks for are one batch."""
    module = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()
    where, radius, beta = problem(Network.of(module)), 0.1, 0.3
    ours = where.start + 0.05 * normal(where.network.num_weights, seed=5)
    theirs, stepper = where.network.module_at(ours).train(), FirstOrder(beta=beta, held=0.5, batch_statistics=True)
    adam, state = (
        torch.optim.Adam(theirs.parameters(), lr=radius / where.network.num_weights**0.5),
        stepper.begin(where),
    )
    for seed in range(2):
        inputs = batch(where, 8, 5, seed=seed)
        here, there = theirs(torch.cat([inputs.inputs[:4], inputs.inputs + 1])).split([4, 8])
        adam.zero_grad()
        distance = (where.geometry.embed(here) - inputs.reference[:4]).square().sum(1).mean()
        (distance - beta * there.square().mean()).backward()
        adam.step()
        made = stepper.propose(Situation(where, _SaysWhatItAsks(), ours, inputs, radius), state)
        ours, state = ours + made.displacement, made.state
    seen = normal(20, 5, seed=9)
    torch.testing.assert_close(where.network(ours, seen), theirs.eval()(seen).detach(), rtol=1e-8, atol=1e-8)


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


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Natural(damping=-1),
        lambda: Natural(iterations=0),
        lambda: FirstOrder(beta=-0.1),
        lambda: FirstOrder(decay=1.0),
        lambda: FirstOrder(held=-0.1),
        lambda: FirstOrder(final_beta=0.2),
        lambda: Natural(chunk=0),
        lambda: Kronecker(damping=0),
        lambda: Kronecker(refresh=0),
        lambda: Kronecker(memory=1.0),
        lambda: InputNullSpace(threshold=1.0),
        lambda: InputNullSpace(num_batches=0),
        lambda: Switch(FirstOrder(), Natural(), at=1.0),
        lambda: Published(length=0),
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        wrong()


def test_beta_falls_by_the_same_factor_each_step():
    stepper = FirstOrder(beta=0.4, final_beta=0.1)
    assert [stepper.beta_after(progress) for progress in (0, 0.5, 1)] == pytest.approx([0.4, 0.2, 0.1])
    assert FirstOrder(beta=0.4).beta_after(1.0) == 0.4


def test_each_part_of_a_switched_path_walks_from_0_to_1():
    where = problem(mlp(5, 6, 3))
    whole = [
        Situation(where, Slope(), where.start, batch(where, 4, 5), 1.0, progress=step / 10, fraction=0.1)
        for step in range(1, 11)
    ]
    parts = [situation.part_of(0.8) for situation in whole]
    assert [part.progress for part in parts] == pytest.approx([n / 8 for n in range(1, 9)] + [0.5, 1.0])
    assert [part.fraction for part in parts] == pytest.approx([1 / 8] * 8 + [1 / 2] * 2)


def test_a_radius_that_is_switched_falls_to_its_final_value_before_the_switch():
    where = problem(mlp(5, 6, 3))
    inputs, control = batch(where, 4, 5), Switched(Scheduled(0.1), Scheduled(0.05), at=0.5)
    radii = [
        control.judge(
            Candidate(
                Situation(where, Slope(), where.start, inputs, 1.0, progress=step / 8, fraction=1 / 8),
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


def flat(where: Problem, inputs: Batch, radius: float = 10.0, seed: int = 5) -> Situation:
    """Off the start, with nothing to gain."""
    return Situation(where, Flat(), where.start + 0.02 * normal(len(where.start), seed=seed), inputs, radius)


class TestNaturalStepsAgree:
    """One step, solved, streamed and begun in several ways."""

    def made(self, stepper: Natural, state=None, objective=None):
        where = problem(mlp(5, 7, 6, 3))
        situation = replace(flat(where, batch(where, 9, 5)), objective=objective or Slope(), radius=0.3)
        return stepper.propose(situation, state or {})

    def test_solved_exactly_and_by_enough_iterations(self):
        exact, iterated = (self.made(Natural(iterations=iterations)) for iterations in (None, 400))
        torch.testing.assert_close(exact.displacement, iterated.displacement, rtol=0, atol=1e-8)
        assert_above(torch.linalg.vector_norm(exact.displacement), 0.05)

    def test_the_cheaper_way_is_taken_and_is_no_other_step(self):
        """Few inputs and many allowed iterations: counted, sample space is cheaper; and it is the exact step."""
        where = problem(mlp(40, 60, 3))
        situation = replace(flat(where, batch(where, 3, 40)), objective=Slope(), radius=0.3)
        chosen, exact = (Natural(iterations=iterations).propose(situation, {}) for iterations in (60, None))
        assert torch.equal(chosen.displacement, exact.displacement)

    def test_a_warm_start_leads_to_the_same_solution(self):
        cold = self.made(Natural(iterations=400, chunk=4))
        elsewhere = {"correction": normal(len(cold.displacement), seed=8)}
        warm = self.made(Natural(iterations=400, chunk=4, warm=True), elsewhere)
        torch.testing.assert_close(warm.displacement, cold.displacement, rtol=0, atol=1e-9)
        assert self.made(Natural(warm=False)).state == {}

    def test_a_warm_start_saves_iterations(self):
        exact = self.made(Natural(iterations=None)).displacement
        solved = self.made(Natural(iterations=400, chunk=4, warm=True)).state
        errors = [
            float(
                torch.linalg.vector_norm(
                    self.made(Natural(iterations=2, chunk=4, warm=True), state).displacement - exact
                )
            )
            for state in (solved, {})
        ]
        assert_below(errors[0], 1e-6)
        assert_above(errors[1], 1e-6)

    @pytest.mark.parametrize("iterations", [3, 100])
    def test_streamed_and_at_once(self, iterations):
        where = problem(mlp(5, 7, 6, 3))
        inputs = batch(where, 20, 5)
        situation = replace(flat(where, inputs), objective=Slope(), radius=0.3)
        at_once = Natural(iterations=iterations, chunk=20)
        streamed = [Natural(iterations=iterations, chunk=size).propose(situation, {}) for size in (7, 19)]
        for made in streamed:
            torch.testing.assert_close(
                made.displacement, at_once.propose(situation, {}).displacement, rtol=0, atol=1e-9
            )

    def test_in_bfloat16_to_a_few_per_cent(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = Network.of(nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)))
        where = problem(network)
        inputs = where.batch(normal(64, 8).float())
        weights = where.start + 0.05 * normal(network.num_weights, seed=3).float()
        full, rough = (
            Natural(damping=0.1, iterations=20, precision=precision, chunk=32)
            .propose(Situation(where, Flat(), weights, inputs, 10.0), {})
            .displacement
            for precision in ("full", "bf16")
        )
        assert rough.dtype == torch.float32
        error = float(torch.linalg.vector_norm(rough - full) / torch.linalg.vector_norm(full))
        assert error > 0
        assert_below(error, 0.05)


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_a_streamed_metric_has_the_products_of_the_whole_one(chunk):
    where = problem(mlp(5, 6, 3))
    inputs, direction, sensitivities = normal(10, 5), normal(len(where.start), seed=2), normal(10, 3, seed=3)
    whole = Metric(where.network, where.start, inputs, where.geometry)
    streamed = StreamedMetric(where.network, where.start, inputs, where.geometry, chunk=chunk)
    assert streamed.num_inputs == 10
    torch.testing.assert_close(streamed.embedded, whole.embedded)
    torch.testing.assert_close(streamed.j(direction), whole.j(direction))
    torch.testing.assert_close(streamed.jt(sensitivities), whole.jt(sensitivities))
    torch.testing.assert_close(streamed @ direction, whole @ direction)


class TestKroneckerFactors:
    def test_on_one_layer_the_step_is_the_dense_one_with_its_factors(self):
        """d = -(A (x) B + m I)^-1 (m t l + J^T e / N), B from the sensitivities that the batch draws, to 1e-9."""
        where, damping = problem(linear(5, 3), Euclidean()), 1e-2
        inputs = batch(where, 20, 5)
        situation = replace(flat(where, inputs), objective=Slope(), radius=2.0)
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

    def test_on_one_layer_and_many_inputs_it_is_the_natural_step(self):
        """There g = A (x) I, and B tends to I as 1 / sqrt(N): 3 x 3 numbers, each within 4 / sqrt(N)."""
        where = problem(linear(5, 3), Euclidean())
        inputs = batch(where, 100_000, 5)
        situation = replace(flat(where, inputs), objective=Slope(), radius=2.0)
        made = Kronecker(0.1).propose(situation, Kronecker().begin(where)).displacement
        exact = Natural(0.1, iterations=60, chunk=100_000).propose(situation, {}).displacement
        assert_below(torch.linalg.vector_norm(made - exact) / torch.linalg.vector_norm(exact), 0.04)

    def test_the_diagonal_for_weights_outside_layers_is_that_of_the_metric_on_average(self):
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

    def test_factors_are_made_anew_only_every_so_many_steps(self):
        where, stepper = problem(mlp(5, 6, 3)), Kronecker(refresh=3)
        states = [stepper.begin(where)]
        for seed in range(4):
            situation = flat(where, replace(batch(where, 8, 5, seed=seed), seed=seed))
            states.append(stepper.propose(situation, states[-1]).state)
        factors = [state["in.0"] for state in states[1:]]
        assert [torch.equal(one, factors[0]) for one in factors] == [True, True, True, False]


class TestInputNullSpace:
    @pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
    def test_a_long_step_changes_no_output_of_a_deep_network_to_rounding(self, activation):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            parts = [nn.Linear(20, 30), activation(), nn.Linear(30, 25), activation(), nn.Linear(25, 3)]
            network = Network.of(nn.Sequential(*parts).double())
        where = problem(network, Euclidean())
        inputs = where.batch(normal(12, 6, seed=1) @ normal(6, 20, seed=2))  # rank 6 of 20
        stepper = InputNullSpace()
        made = stepper.propose(Situation(where, Slope(), where.start, inputs, 10.0), stepper.begin(where))
        assert float(torch.linalg.vector_norm(made.displacement)) == pytest.approx(10)
        assert made.predicted_gain > 0
        after = network.outputs(where.start + made.displacement, inputs.inputs)
        torch.testing.assert_close(after, inputs.reference, rtol=0, atol=1e-9)

    def test_every_layer_moves_where_its_inputs_leave_room(self):
        where = problem(mlp(20, 30, 25, 3), Euclidean())
        inputs, stepper = batch(where, 6, 20), InputNullSpace()
        made = stepper.propose(Situation(where, Slope(), where.start, inputs, 10.0), stepper.begin(where))
        parts = where.network.named(made.displacement)
        assert_above(min(parts[f"{place}.weight"].abs().max() for place in (0, 2, 4)), 0.01)

    def test_a_layer_that_acts_twice_and_weights_that_act_elsewhere_change_no_output_either(self):
        class Tied(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding, self.twice = nn.Embedding(15, 12), nn.Linear(12, 12)
                self.head = nn.Linear(12, 15, bias=False)
                self.head.weight = self.embedding.weight

            def forward(self, inputs):
                return self.head(self.twice(self.twice(self.embedding(inputs).mean(1)).tanh()).tanh())

        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = Network.of(Tied().double())
        where = problem(network, Euclidean())
        inputs = where.batch(torch.randint(15, (4, 3), generator=generator(1)))
        stepper = InputNullSpace()
        made = stepper.propose(Situation(where, Slope(), where.start, inputs, 10.0), stepper.begin(where))
        parts = network.named(made.displacement)
        assert not parts["embedding.weight"].any()
        assert_above(parts["twice.weight"].abs().max(), 0.1)
        after = network.outputs(where.start + made.displacement, inputs.inputs)
        torch.testing.assert_close(after, inputs.reference, rtol=0, atol=1e-9)

    def test_where_inputs_span_everything_nothing_moves(self):
        where = problem(mlp(4, 5, 3))
        inputs, stepper = batch(where, 200, 4), InputNullSpace(threshold=0)
        made = stepper.propose(Situation(where, Slope(), where.start, inputs, 10.0), stepper.begin(where))
        assert not made.displacement.any()
        assert made.predicted_gain == 0

    def test_moments_are_gathered_over_the_first_batches(self):
        where, stepper = problem(linear(10, 3), Euclidean()), InputNullSpace(num_batches=2)
        state, free = stepper.begin(where), []
        for seed in range(3):
            situation = Situation(where, Slope(), where.start, batch(where, 3, 10, seed=seed), 1.0)
            state = stepper.propose(situation, state).state
            free.append(state["free.0"].shape[1])
        assert free == [7, 4, 4]


class TestComposed:
    def test_a_correction_takes_drift_back_that_the_prediction_leaves(self):
        where = problem(mlp(5, 8, 3))
        inputs = batch(where, 9, 5)
        alone, back = Natural(damping=1e6), Natural(damping=1e-4, iterations=None)
        situation = Situation(where, Slope(), where.start, inputs, 0.3)
        drifts = []
        for stepper in (alone, Corrected(alone, back)):
            made = stepper.propose(situation, stepper.begin(where))
            embedded = FisherRao().embed(where.network(where.start + made.displacement, inputs.inputs))
            drifts.append(float(functional_distance(embedded, inputs.reference)))
            assert made.predicted_gain > 0
        assert_below(drifts[1] / drifts[0], 0.2)

    def test_the_parts_of_a_corrected_step_are_those_of_its_steppers(self):
        where = problem(mlp(5, 8, 3))
        ahead, back = FirstOrder(beta=1.0), Natural()
        situation = replace(flat(where, batch(where, 9, 5), radius=0.01), objective=Slope())
        first = ahead.propose(situation, ahead.begin(where))
        second = back.propose(
            replace(situation, objective=Flat(), weights=situation.weights + first.displacement), back.begin(where)
        )
        composed = Corrected(ahead, back)
        made = composed.propose(replace(situation, radius=0.01), composed.begin(where))
        both = first.displacement + second.displacement
        both = both * min(1.0, 0.01 / float(torch.linalg.vector_norm(both)))
        torch.testing.assert_close(made.displacement, both)
        assert set(made.state) == {"predictor.mean", "predictor.square", "predictor.count"}

    @pytest.mark.parametrize(("progress", "part"), [(0.1, "far"), (0.6, "far"), (0.61, "near"), (1.0, "near")])
    def test_a_switch_is_far_until_its_share_of_the_path_and_then_near(self, progress, part):
        where = problem(mlp(5, 8, 3))
        parts = {"far": FirstOrder(beta=1.0), "near": Natural()}
        switch = Switch(parts["far"], parts["near"], at=0.6)
        situation = replace(flat(where, batch(where, 9, 5)), objective=Slope(), progress=progress)
        made = switch.propose(situation, switch.begin(where))
        expected = parts[part].propose(situation, parts[part].begin(where))
        assert torch.equal(made.displacement, expected.displacement)
        assert int(made.state["far.count"]) == (part == "far")


def test_a_sum_is_restricted_only_where_a_part_is():
    where = problem(mlp(5, 6, 3))
    free, sparse = (
        WeightedSum(((1.0, GradientDiversity()),)),
        WeightedSum(((1.0, GradientDiversity()), (0.0, Sparsify(0.5)))),
    )
    situations = [Situation(where, part, where.start, batch(where, 4, 5), 1.0) for part in (free, sparse, Slope())]
    assert [situation.restricted for situation in situations] == [False, True, False]
