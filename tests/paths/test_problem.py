"""A problem of several kept quantities: exact steps against dense solutions, in float64; distances, budgets, events."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import fipray as fip
from fipray.errors import DataError, UsageError
from fipray.paths import Problem, Settings, Situation, trace
from tests.problems import generator, mlp, normal

KEEPS = {
    "field": fip.keeps.Outputs(fip.Euclidean(0.5)),
    "energy": fip.keeps.Residual("tests.quantities:energy_rate", scale=0.3, on="orbit", held_out="other orbit"),
    "slopes": fip.keeps.Slopes(2.0, directions=1, on="orbit"),
}
SETS = {"orbit": normal(4, 2, seed=7), "other orbit": normal(8, 2, seed=8)}
ANCHORS, HELD_OUT = normal(5, 2, seed=1), normal(6, 2, seed=2)


def made(**changes) -> Problem:
    return Problem(mlp(2, 8, 2), ANCHORS, HELD_OUT, **{"keeps": KEEPS, "sets": SETS, **changes})


def situation(radius: float = 0.1) -> Situation:
    """Some way off the start, where the kept quantities deviate."""
    problem = made()
    weights = problem.start + 0.05 * normal(problem.network.num_weights, seed=3)
    batch = problem.anchors.draw(100, generator())
    return Situation(problem, fip.objectives.RandomWalk(), weights, batch, radius)


def rows_and_deviation(at: Situation) -> tuple[Tensor, Tensor]:
    """Dense rows of all quantities and deviations from their targets, scaled so that squares add up to D^2."""
    problem, network = at.problem, at.problem.network

    def stacked(weights: Tensor) -> Tensor:
        field = network(weights, ANCHORS) / 0.5 / 5**0.5
        orbit = SETS["orbit"]
        energy = (orbit * network(weights, orbit)).sum(1) / 0.3 / 4**0.5
        drawn = torch.randn(1, 2, generator=generator(), dtype=torch.float64)
        drawn = drawn / drawn.norm(dim=1, keepdim=True)
        slopes = torch.func.vmap(torch.func.jacrev(lambda x: network(weights, x[None])[0]))(orbit) @ drawn.T
        return torch.cat([field.flatten(), energy, slopes.flatten() / 2.0 / 4**0.5])

    jacobian = torch.func.jacrev(stacked)(at.weights)
    target = stacked(problem.start)
    target[10:14] = 0  # the energy's rate must vanish
    return jacobian, stacked(at.weights) - target


def test_the_natural_step_is_the_dense_solution():
    """`(J^T J + m I) z = J^T (t J l - e)`, to 1e-9."""
    at, damping = situation(), 1e-3
    rows, deviation = rows_and_deviation(at)
    found = fip.steppers.Natural(damping=damping, iterations=None).propose(at, {}).displacement
    right = rows.T @ (-rows @ at.descent - deviation)
    z = torch.linalg.solve(rows.T @ rows + damping * torch.eye(len(at.weights), dtype=torch.float64), right)
    expected = at.descent + z
    expected *= min(1.0, at.radius / float(expected.norm()))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    many = fip.steppers.Natural(damping=damping, iterations=200).propose(at, {}).displacement
    torch.testing.assert_close(many, expected, rtol=1e-6, atol=1e-8)


def test_the_projected_step_brings_every_quantity_back():
    """The least-norm solution of `J d = -e` beside the free part of the descent, to 1e-8."""
    at = situation(radius=100.0)
    rows, deviation = rows_and_deviation(at)
    found = fip.steppers.Projected().propose(at, {}).displacement
    inverse = torch.linalg.pinv(rows)
    expected = at.descent - inverse @ (rows @ at.descent + deviation)
    expected *= min(1.0, at.radius / float(expected.norm()))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_the_first_order_step_goes_down_the_squared_distance():
    """The first step of Adam goes along the sign of the gradient."""
    at = situation()
    rows, deviation = rows_and_deviation(at)
    stepper = fip.steppers.FirstOrder(beta=1e-9)
    found = stepper.propose(at, stepper.begin(at.problem)).displacement
    slope = rows.T @ deviation
    felt = slope.abs() > 1e-4 * slope.abs().max()
    assert torch.equal(found[felt].sign(), -slope[felt].sign())
    assert int(felt.sum()) > 30


def test_distances_are_those_of_each_quantity():
    at = situation()
    _, deviation = rows_and_deviation(at)
    found = at.problem.distances(at.weights, at.batch)
    parts = deviation.split([10, 4, 8])
    assert list(found) == ["field", "energy", "slopes"]
    for name, part in zip(found, parts, strict=True):
        assert found[name] == pytest.approx(float(part.norm()), rel=1e-12)


class TestAPath:
    def test_a_conserved_energy_is_repaired_while_the_field_stays(self):
        """The residual is at its own value at the start, 0 is its target, and the path goes there."""
        problem = made()
        steps = Settings(radius=fip.radii.Adaptive(initial=0.02, tolerance=0.2), num_steps=40, batch_size=50)
        path = trace(problem, fip.objectives.RandomWalk(), steps)
        start, end = path.points[0].distances, path.end.distances
        assert start["field"] == start["slopes"] == 0
        assert end["energy"] < 0.2 * start["energy"]
        assert path.points[0].functional_distance == pytest.approx(start["energy"])
        assert path.end.functional_distance == pytest.approx(math.hypot(*end.values()))
        assert set(path.end.distances_held_out) == {"field", "energy", "slopes"}

    def test_an_event_and_a_budget_are_of_one_quantity(self):
        given = {"radius": fip.radii.Scheduled(0.05), "num_steps": 20, "batch_size": 50}
        event = fip.events.FunctionalDistanceAbove(0.05, of="field")
        path = trace(
            made(),
            fip.objectives.RandomWalk(),
            Settings(stepper=fip.steppers.FirstOrder(beta=10.0), events=(event,), **given),
        )
        assert path.outcome.kind == "stopped"
        assert "the distance of 'field' on held-out inputs" in str(path.outcome)
        assert all(point.distances_held_out["field"] <= 0.05 for point in path.points)
        with pytest.raises(UsageError, match="the kept quantities are: 'field', 'energy', 'slopes'"):
            trace(
                made(),
                fip.objectives.RandomWalk(),
                events=(fip.events.FunctionalDistanceAbove(0.1, of="fields"),),
                **given,
            )

    def test_a_step_beyond_a_budget_is_refused(self):
        tight = fip.keeps.Outputs(fip.Euclidean(0.5), budget=1e-3)
        radius = fip.radii.Adaptive(initial=0.02, tolerance=10.0)
        ways = {}
        for name, kept in (("tight", tight), ("loose", fip.keeps.Outputs(fip.Euclidean(0.5)))):
            problem = made(keeps={**KEEPS, "field": kept})
            path = trace(
                problem,
                fip.objectives.RandomWalk(),
                stepper=fip.steppers.FirstOrder(beta=1.0),
                radius=radius,
                num_steps=10,
            )
            ways[name] = path.end.distances["field"]
        assert ways["tight"] <= 1e-3 < ways["loose"]

    def test_a_resumed_path_is_the_whole_one_bit_for_bit(self):
        settings = Settings(
            stepper=fip.steppers.FirstOrder(beta=0.1), radius=fip.radii.Scheduled(0.02), num_steps=6, batch_size=4
        )
        whole = trace(made(), fip.objectives.RandomWalk(), settings)
        begun = trace(made(), fip.objectives.RandomWalk(), settings, until=3)
        again = trace(made(), fip.objectives.RandomWalk(), settings, resume=begun.points)
        assert torch.equal(whole.end.weights, again.end.weights)
        assert whole.end.distances == again.end.distances

    def test_without_the_outputs_only_the_residual_is_kept(self):
        problem = made(keeps={"energy": KEEPS["energy"]})
        path = trace(problem, fip.objectives.RandomWalk(), num_steps=5, batch_size=20)
        assert list(path.end.distances) == ["energy"]
        assert path.end.functional_distance == path.end.distances["energy"]


class TestOutputsAmongOthers:
    OUTPUTS = fip.keeps.Outputs(fip.Euclidean(0.5))

    def test_the_same_quantity_under_two_names_counts_twice(self):
        once, twice = (made(keeps=dict.fromkeys(names, self.OUTPUTS)) for names in ("a", "ab"))
        weights = once.start + 0.1 * normal(once.network.num_weights, seed=3)
        one, two = once.distances(weights, once.anchors), twice.distances(weights, twice.anchors)
        assert set(two) == {"a", "b"}
        assert two["a"] == pytest.approx(two["b"], rel=1e-12) == pytest.approx(one["a"], rel=1e-12)

    def test_outputs_are_judged_on_the_set_that_they_name(self):
        problem = made(keeps={"a": fip.keeps.Outputs(fip.Euclidean(0.5), held_out="other orbit")})
        weights = problem.start + 0.1 * normal(problem.network.num_weights, seed=3)
        x = SETS["other orbit"]
        deviation = (problem.network(weights, x) - problem.network(problem.start, x)) / 0.5
        found = problem.distances(weights, problem.held_out)["a"]
        assert found == pytest.approx(float(deviation.square().sum(1).mean().sqrt()), rel=1e-12)


class TestRefusals:
    def test_inputs_of_a_batch_are_tensors(self):
        with pytest.raises(DataError, match=r"Problem.batch\(\): inputs is"):
            made().batch([[1.0, 2.0]])

    def test_what_does_not_fit_is_named(self):
        with pytest.raises(UsageError, match="'energy' is on the set 'orbit'; the sets are: none"):
            made(sets={})
        with pytest.raises(UsageError, match="two geometries are given"):
            made(geometry=fip.FisherRao())
        with pytest.raises(UsageError, match="'one' does not depend on the weights"):
            made(keeps={"one": fip.keeps.Residual("tests.quantities:constant")})
        with pytest.raises(DataError, match="does not take"):
            made(sets={**SETS, "orbit": normal(4, 3)})
        with pytest.raises(UsageError, match=r"Kronecker keeps the outputs on the anchors alone, and 'energy', 's"):
            trace(made(), fip.objectives.RandomWalk(), stepper=fip.steppers.Kronecker())
        with pytest.raises(UsageError, match="a problem was given, and anchors beside it"):
            trace(made(), fip.objectives.RandomWalk(), anchors=ANCHORS)
        with pytest.raises(UsageError, match="the problem has no held_out"):
            trace(Problem(mlp(2, 8, 2), ANCHORS), fip.objectives.RandomWalk())

    def test_a_module_stands_for_its_network(self):
        module = nn.Linear(2, 3)
        problem = Problem(module, torch.rand(4, 2), torch.rand(4, 2))
        assert torch.equal(problem.start, fip.Network.of(module).weights)
        path = trace(
            module, fip.objectives.RandomWalk(), anchors=torch.rand(9, 2), held_out=torch.rand(9, 2), num_steps=2
        )
        assert path.end.step == 2
