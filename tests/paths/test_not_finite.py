"""NaN and infinity in steps and in user code end a path at its last finite point."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fipray.errors import UsageError
from fipray.geometry import Euclidean
from fipray.networks import Network
from fipray.paths import (
    Acceptance,
    Adaptive,
    Candidate,
    FunctionalDistanceAbove,
    GradientDiversity,
    Natural,
    ObjectiveBelow,
    PathPoint,
    Proposal,
    SaveAt,
    Scheduled,
    Situation,
)
from tests.paths.breaking import (
    BROKEN,
    Breaks,
    Logarithm,
    Moving,
    assert_ended,
    assert_finite,
    network,
    steps_from,
    traced,
)
from tests.problems import batch, problem


@pytest.mark.parametrize("value", BROKEN)
class TestUserCode:
    def test_an_objective_that_is_not_finite_ends_the_path_before(self, value):
        assert_ended(traced(Breaks(value, 4)), 3, f"the objective was {value} at step 4")

    def test_a_probe_that_is_not_finite_ends_the_path_before(self, value):
        path = traced(probes={"fine": Breaks(2.0, 0).probe, "size": Breaks(value, 3).probe})
        assert_ended(path, 2, f"the probe 'size' was {value} at step 3")

    @pytest.mark.parametrize("kind", [{}, {"goal": True}, {"limit": True}])
    def test_an_event_that_answers_with_a_number_that_is_not_finite_ends_the_path_before(self, value, kind):
        path = traced(events=[Breaks(value, 5, **kind)])
        assert_ended(path, 4, f"the reason that Breaks gave was {value} at step 5")

    def test_a_radius_that_is_not_finite_ends_the_path_before(self, value):
        assert_ended(traced(radius=Breaks(value, 6)), 5, f"the next radius was {value} at step 6")

    def test_a_step_that_is_not_finite_ends_the_path_before(self, value):
        found = "nan" if math.isnan(value) else "inf"
        path = traced(stepper=Moving(at=3, displacement=value))
        assert_ended(path, 2, f"the length of the displacement was {found} at step 3")

    @pytest.mark.parametrize("radius", [Scheduled(1.0), Adaptive(1.0, tolerance=2.5)])
    def test_a_predicted_gain_that_is_not_finite_ends_the_path_before(self, value, radius):
        path = traced(stepper=Moving(at=3, gain=value), radius=radius)
        assert_ended(path, 2, f"the predicted gain was {value} at step 3")

    def test_a_start_that_is_not_finite_is_refused_before_any_step(self, value):
        points: list[PathPoint] = []
        with pytest.raises(UsageError, match=rf"the objective was {value} at the path's start"):
            traced(Breaks(value, 0), on_point=points.append)
        with pytest.raises(UsageError, match=rf"the probe 'size' was {value} at the path's start"):
            traced(probes={"size": Breaks(value, 0).probe}, on_point=points.append)

        class Starts(Scheduled):
            def begin(self, problem):
                return value

        with pytest.raises(UsageError, match=rf"the radius was {value} at the path's start"):
            traced(radius=Starts(1.0), on_point=points.append)
        assert not points

    def test_a_value_between_two_kept_points_is_found_at_the_next(self, value):
        path = traced(Breaks(value, 3), save_at=SaveAt(2))
        assert path.outcome.sentence.startswith(f"the objective was {value} at step 4, so the path ended at step 0")
        assert len(path.points) == 1

    def test_a_path_paused_at_such_a_point_has_ended(self, value):
        path = traced(Breaks(value, 4), save_at=SaveAt(1), until=4)
        assert path.outcome.kind == "not finite"
        assert path.end.step == 0

    def test_the_bisection_of_a_limit_accepts_finite_points_only(self, value):
        """The limit is passed at step 8, the objective is broken about step 6: the path ends before, and is finite."""
        far = traced(save_at=SaveAt(1)).end.functional_distance_held_out
        path = traced(
            Gap(value, network().weights), save_at=SaveAt(1), events=[FunctionalDistanceAbove(far * (1 - 1e-6))]
        )
        assert path.outcome.kind == "stopped"
        assert 0 < steps_from(path.points[0].weights, path.end.weights) < 6
        assert_finite(path)

    def test_a_goal_whose_restriction_breaks_the_objective_is_left_as_it_was(self, value):
        path = traced(Restricting(value), events=[ObjectiveBelow(1.0)], num_steps=4)
        assert path.outcome.kind == "not finite"
        assert f"the objective was {value} at step 1, so the path ended at step 1" in path.outcome.sentence
        assert_finite(path)


@dataclass(frozen=True)
class Gap:
    """Broken from step 5.2 to 7.5 alone."""

    broken: float
    start: Tensor

    def value(self, problem, weights, batch):
        moved = float((weights.detach() - self.start)[0]) / 0.01
        return weights.sum() * 0 + (self.broken if 5.2 < moved < 7.5 else 1.0)


@dataclass(frozen=True)
class Restricting:
    """At the end of a path all weights are to be 0, where it is broken."""

    broken: float

    def value(self, problem, weights, batch):
        return weights.sum() * 0 + (self.broken if not weights.detach().any() else 1.0)

    def restrict(self, problem, weights, progress, batch):
        return torch.zeros_like(weights) if progress == 1.0 else weights

    def tangent(self, problem, weights):
        return lambda vector: vector


class TestAdaptiveRadius:
    FINE: dict[str, float] = {  # noqa: RUF012
        "distance_before": 0.0,
        "distance_after": 0.05,
        "distance_at_most": 0.05,
        "gain": 0.9,
        "_before": 1.0,
    }

    def judged(self, predicted: float = 1.0, **changes: float) -> Acceptance:
        where = problem(network())
        made = Situation(where, GradientDiversity(), where.start, batch(where, 3, 6, seed=2), 1.0, 0.5)
        candidate = Candidate(made, where.start, predicted, batch(where, 3, 6))
        candidate.__dict__.update({**self.FINE, **changes})
        return Adaptive(tolerance=0.1).judge(candidate)

    @pytest.mark.parametrize("value", BROKEN)
    @pytest.mark.parametrize("name", ["distance_after", "gain", "_before"])
    def test_a_candidate_that_is_not_finite_is_refused(self, name, value):
        numbers = {name: value, **({"gain": value} if name == "_before" else {})}
        assert self.judged(**numbers) == Acceptance(False, 0.5)

    @pytest.mark.parametrize("value", BROKEN)
    def test_a_predicted_gain_that_is_not_finite_is_refused(self, value):
        assert self.judged(value) == Acceptance(False, 0.5)

    def test_a_step_from_an_unknown_distance_is_refused(self):
        assert self.judged(distance_before=math.nan, distance_after=0.3) == Acceptance(False, 0.5)

    def test_a_radius_does_not_grow_where_the_error_of_the_distance_is_nan(self):
        assert self.judged(distance_at_most=math.nan) == Acceptance(True, 1.0)
        assert self.judged() == Acceptance(True, 1.5)

    @pytest.mark.parametrize("broken", [0, 1])
    def test_the_larger_of_two_distances_is_nan_where_one_of_them_is(self, broken):
        """The network is not finite on the step's own batch, or on the fresh one."""
        where = problem(Network.of(Logarithm().double()), Euclidean())
        batches = [batch(where, 3, 1, seed=seed) for seed in (2, 3)]
        for one in batches:
            one.inputs.abs_()
        batches[broken].inputs[0] = -1.0
        made = Situation(where, GradientDiversity(), where.start, batches[0], 1.0, 0.5)
        candidate = Candidate(made, where.start, 0.0, batches[1])
        assert math.isnan(candidate.distance_after)
        assert math.isnan(candidate.distance_at_most)
        assert candidate.not_finite.startswith("the functional distance after the step was nan")
        assert not Adaptive(tolerance=10.0).judge(candidate).accepted

    def test_a_radius_that_only_grows_stays_finite(self):
        """2000 steps without length, each of which multiplies it by 1.5."""
        still = Moving(displacement=0.0)
        path = traced(stepper=Still(still), radius=Adaptive(), num_steps=2000, save_at=SaveAt(1))
        assert path.outcome.kind == "completed"
        assert path.end.radius == pytest.approx(1e6 * float(network().weights.norm()))


@dataclass(frozen=True)
class Still:
    inner: Moving

    def begin(self, problem):
        return self.inner.begin(problem)

    def propose(self, situation, state):
        return Proposal(torch.zeros_like(situation.weights), 0.0, state)


def test_a_path_whose_last_step_was_refused_as_not_finite_is_not_completed():
    """It breaks wherever the weights move at all."""
    for num_steps in (5, 200):
        path = traced(Anywhere(), Natural(), radius=Adaptive(), num_steps=num_steps)
        assert path.outcome.kind == "not finite"
        assert "the gain was nan" in path.outcome.sentence
        assert "so the path ended at step 0, its last finite point" in path.outcome.sentence


@dataclass(frozen=True)
class Anywhere:
    def value(self, problem, weights, batch):
        away = bool((weights.detach() != problem.start).any())
        return weights.sum() * (math.nan if away else 1.0)


def test_a_radius_control_that_accepts_nan_ends_the_path():
    class Accepts(Scheduled):
        def judge(self, candidate):
            return Acceptance(math.isnan(candidate.gain) or True, 1.0)

    path = traced(Breaks(math.nan, 4), radius=Accepts(1.0))
    assert_ended(path, 3, "the gain was nan at step 4")


def test_a_gradient_of_nan_is_not_taken_for_a_flat_objective():
    made = Situation(problem(network()), GradientDiversity(), network().weights, batch(problem(network()), 3, 6), 1.0)
    vars(made)["slope"] = torch.full_like(made.weights, math.nan)
    assert bool(made.descent.isnan().all())
    vars(made)["slope"] = torch.zeros_like(made.weights)
    assert not made.descent.any()
