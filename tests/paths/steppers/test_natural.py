"""Natural steps against dense closed forms, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from fipray.errors import UsageError
from fipray.geometry import FisherRao, Metric, StreamedMetric, functional_distance
from fipray.networks import Network
from fipray.paths import (
    GradientDiversity,
    Natural,
    Situation,
)
from fipray.paths.calls import gradient
from fipray.testing import CorrectorContract, Flat, RestrictedStepperContract
from tests.margins import assert_above, assert_below
from tests.paths.steppers.situations import Slope, off_start
from tests.problems import batch, mlp, normal, problem


class TestNatural(RestrictedStepperContract, CorrectorContract):
    stepper = Natural()


class TestNaturalBySampleSpace(RestrictedStepperContract, CorrectorContract):
    stepper = Natural(iterations=None)


class TestNaturalStreamed(RestrictedStepperContract, CorrectorContract):
    stepper = Natural(chunk=3)


@pytest.mark.parametrize("iterations", [None, 200])
def test_the_step_at_the_base_weights_is_the_published_program_in_closed_form(iterations):
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


def test_the_step_off_the_base_weights_is_the_gauss_newton_correction():
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


class TestNaturalAgrees:
    """The same step by different solvers, streams and initial values."""

    def made(self, stepper: Natural, state=None, objective=None):
        where = problem(mlp(5, 7, 6, 3))
        situation = replace(off_start(where, batch(where, 9, 5)), objective=objective or Slope(), radius=0.3)
        return stepper.propose(situation, state or {})

    def test_exact_and_iterated_solutions_agree(self):
        exact, iterated = (self.made(Natural(iterations=iterations)) for iterations in (None, 400))
        torch.testing.assert_close(exact.displacement, iterated.displacement, rtol=0, atol=1e-8)
        assert_above(torch.linalg.vector_norm(exact.displacement), 0.05)

    def test_the_cheaper_solution_is_chosen_and_gives_the_same_step(self):
        """With few inputs and many iterations sample space takes fewer operations."""
        where = problem(mlp(40, 60, 3))
        situation = replace(off_start(where, batch(where, 3, 40)), objective=Slope(), radius=0.3)
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
    def test_streamed_and_unstreamed_steps_agree(self, iterations):
        where = problem(mlp(5, 7, 6, 3))
        inputs = batch(where, 20, 5)
        situation = replace(off_start(where, inputs), objective=Slope(), radius=0.3)
        at_once = Natural(iterations=iterations, chunk=20)
        streamed = [Natural(iterations=iterations, chunk=size).propose(situation, {}) for size in (7, 19)]
        for made in streamed:
            torch.testing.assert_close(
                made.displacement, at_once.propose(situation, {}).displacement, rtol=0, atol=1e-9
            )

    def test_bfloat16_agrees_to_a_few_per_cent(self):
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
def test_a_streamed_metric_has_the_products_of_the_unstreamed_one(chunk):
    where = problem(mlp(5, 6, 3))
    inputs, direction, sensitivities = normal(10, 5), normal(len(where.start), seed=2), normal(10, 3, seed=3)
    whole = Metric(where.network, where.start, inputs, where.geometry)
    streamed = StreamedMetric(where.network, where.start, inputs, where.geometry, chunk=chunk)
    assert streamed.num_inputs == 10
    torch.testing.assert_close(streamed.embedded, whole.embedded)
    torch.testing.assert_close(streamed.j(direction), whole.j(direction))
    torch.testing.assert_close(streamed.jt(sensitivities), whole.jt(sensitivities))
    torch.testing.assert_close(streamed @ direction, whole @ direction)


@pytest.mark.parametrize(
    "wrong", [lambda: Natural(damping=-1), lambda: Natural(iterations=0), lambda: Natural(chunk=0)]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        wrong()
