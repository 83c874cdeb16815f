"""A schedule whose steps become shorter while the path is too far on held-out inputs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import fipray as fip
from fipray.errors import UsageError
from fipray.paths import Candidate, Situation
from tests.problems import linear, normal


@pytest.fixture
def problem() -> fip.Problem:
    # f = W x on unit vectors: a shift of all of W by d moves the outputs by d sqrt(2) at each held-out input.
    return fip.Problem(linear(3, 2), normal(10, 3), torch.eye(3, dtype=torch.float64), geometry=fip.Euclidean())


def candidate(problem: fip.Problem, step: int, radius: float, distance: float) -> Candidate:
    assert problem.anchors is not None
    batch = problem.anchors.first(4)
    made = Situation(problem, fip.objectives.RandomWalk(), problem.start, batch, radius, step / 100, 0.01)
    return Candidate(made, problem.start + distance / 2**0.5, 0.0, batch)


def test_guarded_radius_halves_doubles_and_never_exceeds_the_schedule(problem):
    schedule = fip.radii.Scheduled(0.1, final=0.1)
    control = fip.radii.Guarded(schedule, tolerance=1.0, every=10, least=0.25)
    whole = 0.1 * problem.length
    assert control.begin(problem) == whole
    for step, scale, distance, expected in [
        (10, 1.0, 1.1, 0.5),  # too far
        (11, 0.5, 9.0, 0.5),  # not looked at
        (20, 0.5, 1.1, 0.25),
        (30, 0.25, 1.1, 0.25),  # the least
        (40, 0.25, 0.9, 0.25),  # within the tolerance, but not by a fifth
        (50, 0.25, 0.7, 0.5),
        (60, 1.0, 0.7, 1.0),  # the schedule
    ]:
        found = control.judge(candidate(problem, step, scale * whole, distance))
        assert found.accepted
        assert found.radius == pytest.approx(expected * whole)


def test_guarded_radius_follows_a_falling_schedule_with_its_scale(problem):
    schedule = fip.radii.Scheduled(0.1)
    control = fip.radii.Guarded(schedule, tolerance=1.0, every=10)
    made = candidate(problem, 50, 0.0, 0.1)
    now, planned = (schedule.judge(replace(made, made=replace(made.made, progress=p))).radius for p in (0.5, 0.49))
    short = candidate(problem, 50, 0.25 * planned, 0.9)
    assert control.judge(short).radius == pytest.approx(0.25 * now)


def test_guarded_radius_refuses_outputs_that_are_not_finite(problem):
    control = fip.radii.Guarded(fip.radii.Scheduled(0.1), tolerance=1.0, every=10)
    assert not control.judge(candidate(problem, 10, 0.01, float("nan"))).accepted


def test_guarded_path_is_resumed_bit_for_bit(problem):
    settings = fip.Settings(
        stepper=fip.steppers.FirstOrder(beta=1.0),
        radius=fip.radii.Guarded(fip.radii.Scheduled(0.3), tolerance=0.05, every=3),
        num_steps=12,
    )
    objective = fip.objectives.WeightDiversity()
    problem = replaced(problem)
    whole = fip.trace(problem, objective, settings)
    half = fip.trace(problem, objective, settings, until=7)
    rest = fip.trace(problem, objective, settings, resume=half.points)
    assert torch.equal(whole.end.weights, rest.end.weights)
    # The guard was needed: at the end the radius is not the schedule's.
    assert min(point.radius for point in whole.points[1:-1]) < 0.1 * problem.length


def replaced(problem: fip.Problem) -> fip.Problem:
    """The same problem with another network, from which the path is to move away."""
    assert problem.anchors is not None
    assert problem.held_out is not None
    others = [problem.start + 0.1 * normal(6)]
    return fip.Problem(
        problem.network, problem.anchors.inputs, problem.held_out.inputs, geometry=fip.Euclidean(), others=others
    )


@pytest.mark.parametrize(("name", "value"), [("tolerance", 0.0), ("every", 0), ("least", 0.0), ("num_inputs", 0)])
def test_guarded_radius_refuses_numbers_out_of_range(name, value):
    with pytest.raises(UsageError, match=name):
        fip.radii.Guarded(**{"control": fip.radii.Scheduled(), "tolerance": 1.0, name: value})
