"""The loop of `trace` and `walk`: sparsity, invariance, seeds, points, events and outcomes."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fipray.errors import DataError, UsageError
from fipray.geometry import Euclidean
from fipray.paths import (
    Adaptive,
    Batch,
    Candidate,
    FirstOrder,
    FunctionalDistanceAbove,
    GradientDiversity,
    Natural,
    ObjectiveBelow,
    OneShot,
    Problem,
    Proposal,
    Published,
    SaveAt,
    Scheduled,
    Settings,
    Situation,
    Sparsify,
    trace,
    walk,
)
from tests.margins import assert_above, assert_below
from tests.problems import batch, generator, linear, mlp, normal, problem

ANCHORS, HELD_OUT = normal(60, 6, seed=1), normal(40, 6, seed=2)


def traced(objective, stepper=None, **settings):
    return trace(
        mlp(6, 12, 4),
        anchors=ANCHORS,
        held_out=HELD_OUT,
        objective=objective,
        stepper=stepper,
        batch_size=30,
        **settings,
    )


@dataclass(frozen=True)
class Nearer:
    """`|w - goal|^2 / 2` with goal = w0 + shift."""

    shift: float = 1.0

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        return (weights - problem.start - self.shift).square().sum() / 2


@pytest.mark.parametrize("stepper", [Natural(), FirstOrder(), Published(), OneShot()])
@pytest.mark.parametrize("sparsity", [0.5, 0.8])
@pytest.mark.parametrize("radius", [Adaptive(), Scheduled()])
def test_a_sparsifying_path_ends_exactly_at_the_asked_sparsity_with_true_zeros(stepper, sparsity, radius):
    path = traced(Sparsify(sparsity), stepper, radius=radius, num_steps=12)
    wanted = round(sparsity * len(path.end.weights))
    assert int((path.end.weights == 0).sum()) == wanted
    assert path.end.sparsity == wanted / len(path.end.weights)


def test_a_sparsifying_path_that_gets_stuck_or_reaches_its_goal_ends_exactly_sparse_too():
    stuck = traced(Sparsify(0.5), Natural(), radius=Adaptive(initial=1e-7, tolerance=1e-12), num_steps=500)
    reached = traced(Sparsify(0.5), Natural(), events=[ObjectiveBelow(1.0)], num_steps=40, save_at=SaveAt(40))
    assert stuck.outcome.kind == "stuck"
    assert reached.outcome.kind == "stopped"
    assert_below(reached.end.step, 40)
    for path in (stuck, reached):
        assert int((path.end.weights == 0).sum()) == round(0.5 * len(path.end.weights))


def test_a_natural_path_gains_and_keeps_the_function_where_plain_descent_loses_it():
    kept = traced(GradientDiversity(), Natural(), radius=Adaptive(tolerance=0.1), num_steps=40)
    assert_above(math.log10(1 - kept.end.objective_value), -1)  # 1 at the start
    assert_below(kept.end.functional_distance, 0.2)
    descent = traced(GradientDiversity(), Natural(damping=1e6), radius=Scheduled(0.05), num_steps=40)
    assert_below(kept.end.functional_distance / descent.end.functional_distance, 1 / 3)


def test_on_a_linear_network_a_quadratic_objective_is_reached_along_the_null_space():
    """The end is w0 + the projection of the way to the goal on the null space of J, to 1e-6."""
    network, anchors = linear(8, 2), normal(5, 8, seed=1)
    path = trace(
        Problem(network, anchors=anchors, held_out=anchors, geometry=Euclidean()),
        Nearer(),
        Settings(
            stepper=Natural(damping=0, iterations=None),
            radius=Adaptive(initial=0.1, tolerance=1e-6),
            num_steps=200,
        ),
    )
    way = torch.ones(2, 8, dtype=torch.float64)
    free = way - way @ torch.linalg.pinv(anchors) @ anchors
    torch.testing.assert_close(path.end.weights, network.weights + free.flatten(), rtol=0, atol=1e-6)
    assert_below(path.end.functional_distance, 1e-9)


def test_equal_seeds_give_equal_paths_bit_for_bit_and_others_do_not():
    first, again, other = (traced(GradientDiversity(), num_steps=8, seed=seed).end.weights for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_first_point_is_the_base_network_at_distance_zero():
    start = traced(GradientDiversity(), num_steps=2).points[0]
    assert torch.equal(start.weights, mlp(6, 12, 4).weights)
    assert (start.step, start.functional_distance, start.functional_distance_held_out) == (0, 0.0, 0.0)


def test_kept_points_are_evenly_spaced_and_the_end_is_one_of_them():
    path = traced(GradientDiversity(), FirstOrder(beta=0.1), radius=Scheduled(), num_steps=50, save_at=SaveAt(5))
    assert [point.step for point in path.points] == [0, 10, 20, 30, 40, 50]
    assert path.weights.shape == (6, len(path.end.weights))
    assert path.outcome.kind == "completed"


def test_an_event_ends_the_path_and_the_outcome_says_why():
    path = traced(
        GradientDiversity(),
        FirstOrder(beta=10),
        radius=Scheduled(0.1),
        events=[FunctionalDistanceAbove(0.2)],
        num_steps=200,
        save_at=SaveAt(200),
    )
    assert path.outcome.kind == "stopped"
    assert "functional distance on held-out inputs would have come to" in str(path.outcome)
    assert f"by step {path.end.step}" in str(path.outcome)
    assert path.end.functional_distance_held_out <= 0.2
    assert_above(path.end.functional_distance_held_out, 0.19)


def test_a_path_whose_step_is_not_finite_ends_at_the_last_good_point():
    @dataclass(frozen=True)
    class Breaks:
        def begin(self, problem):
            return {"count": torch.zeros(())}

        def propose(self, situation, state):
            value = torch.nan if int(state["count"]) == 3 else 1e-3
            return Proposal(torch.full_like(situation.weights, value), 0.0, {"count": state["count"] + 1})

    path = traced(GradientDiversity(), Breaks(), radius=Scheduled(), num_steps=9)
    assert path.outcome.kind == "not finite"
    assert path.end.step == 3
    assert bool(torch.isfinite(path.end.weights).all())


def test_probes_are_measured_at_every_kept_point():
    path = traced(
        GradientDiversity(), num_steps=3, save_at=SaveAt(3), probes={"norm": lambda w: float(w.detach().norm())}
    )
    assert [p.probes["norm"] for p in path.points] == [float(p.weights.norm()) for p in path.points]


def test_walk_yields_accepted_points_and_returns_the_outcome():
    where = problem(mlp(6, 12, 4))
    steps = walk(
        where,
        batch(where, 30, 6),
        GradientDiversity(),
        Settings(radius=Scheduled(), num_steps=4, batch_size=10),
    )
    points = [next(steps) for _ in range(4)]
    assert [point.step for point in points] == [1, 2, 3, 4]
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value.kind == "completed"


def test_on_point_is_called_with_every_kept_point():
    points = []
    path = traced(GradientDiversity(), num_steps=12, save_at=SaveAt(4), on_point=points.append)
    assert tuple(points) == path.points


def test_a_step_holds_no_vector_of_the_one_before():
    earlier, held = [], []

    class Watched:
        def begin(self, problem):
            return {}

        def propose(self, situation, state):
            held.extend(one() is not None for one in earlier)
            displacement = -1e-3 * situation.slope
            earlier[:] = [weakref.ref(displacement), weakref.ref(situation.slope)]
            return Proposal(displacement, 0.0)

    where = problem(mlp(6, 12, 4))
    settings = Settings(num_steps=4, stepper=Watched(), radius=Scheduled(), batch_size=10)
    for _ in walk(where, batch(where, 30, 6), Nearer(), settings):
        pass
    assert held == [False] * 6


class TestAdaptiveRadius:
    def judged(self, *, before: float, after: float, gain: float, predicted: float):
        where = problem(mlp(6, 4))
        made = Situation(where, GradientDiversity(), where.start, batch(where, 3, 6, seed=2), 1.0, 0.5)
        candidate = Candidate(made, where.start, predicted, batch(where, 3, 6))
        candidate.__dict__.update(distance_before=before, distance_after=after, distance_at_most=after, gain=gain)
        return Adaptive(tolerance=0.1).judge(candidate)

    def test_within_tolerance_and_with_the_predicted_gain_the_radius_grows(self):
        acceptance = self.judged(before=0.0, after=0.05, gain=0.9, predicted=1.0)
        assert acceptance.accepted
        assert acceptance.radius == 1.5

    def test_a_step_that_stays_but_gains_too_little_is_refused(self):
        acceptance = self.judged(before=0.0, after=0.05, gain=0.01, predicted=1.0)
        assert not acceptance.accepted
        assert acceptance.radius == 0.5

    def test_a_step_that_gains_but_leaves_the_tolerance_is_refused(self):
        acceptance = self.judged(before=0.05, after=0.2, gain=1.0, predicted=1.0)
        assert not acceptance.accepted
        assert acceptance.radius == 0.5

    @pytest.mark.parametrize("predicted", [0.0, -0.5, 1e-17])
    def test_where_no_gain_beyond_rounding_was_predicted_the_distance_alone_is_judged(self, predicted):
        near = self.judged(before=0.05, after=0.02, gain=-0.5, predicted=predicted)
        assert (near.accepted, near.radius) == (True, 1.5)
        edge = self.judged(before=0.05, after=0.09, gain=-0.5, predicted=predicted)
        assert (edge.accepted, edge.radius) == (True, 1.0)

    def test_from_outside_a_step_towards_the_function_is_accepted(self):
        assert self.judged(before=0.5, after=0.3, gain=-1.0, predicted=1.0).accepted
        assert not self.judged(before=0.3, after=0.5, gain=1.0, predicted=1.0).accepted

    def test_a_gain_that_is_not_a_number_is_no_gain(self):
        assert not self.judged(before=0.0, after=0.05, gain=float("nan"), predicted=1.0).accepted


class TestWrongUse:
    def test_nan_in_the_anchors(self):
        broken = ANCHORS.clone()
        broken[3, 2] = torch.nan
        with pytest.raises(DataError, match="1 of 60 inputs hold NaN"):
            trace(Problem(mlp(6, 12, 4), anchors=broken, held_out=HELD_OUT), GradientDiversity())

    @pytest.mark.parametrize("settings", [{"num_steps": 0}, {"batch_size": 0}])
    def test_counts_below_one(self, settings):
        with pytest.raises(UsageError, match="at least 1"):
            trace(mlp(6, 12, 4), anchors=ANCHORS, held_out=HELD_OUT, objective=GradientDiversity(), **settings)

    @pytest.mark.parametrize(
        "wrong",
        [
            lambda: Adaptive(initial=0),
            lambda: Adaptive(tolerance=-1),
            lambda: Adaptive(shrink=1),
            lambda: Scheduled(initial=0.1, final=0.2),
            lambda: SaveAt(0),
            lambda: FunctionalDistanceAbove(0),
        ],
    )
    def test_settings_out_of_range(self, wrong):
        with pytest.raises(UsageError):
            wrong()


class TestUncertaintySampling:
    def test_a_fraction_of_each_draw_is_sampled_by_uncertainty(self):
        """Two inputs in three certain, one uncertain: sampled in proportion to the root of 1 - max p."""
        reference = 2 * torch.tensor([[1.0, 0.0], [0.5, 0.5], [1.0, 0.0]], dtype=torch.float64).sqrt()
        everything = Batch(torch.arange(3.0)[:, None], reference)
        uncertainty_sampled = Batch(everything.inputs.repeat(1000, 1), reference.repeat(1000, 1)).uncertainty_sampled(
            0.8
        )
        drawn = uncertainty_sampled.draw(2000, generator(1)).inputs[:, 0]
        uncertain = float((drawn == 1).double().mean())
        expected = 0.8 * 0.5**0.5 / (0.5**0.5 + 2e-3) + 0.2 / 3
        assert_below(abs(uncertain - expected), 0.03)

    def test_it_needs_a_classifier_and_a_fraction(self):
        with pytest.raises(UsageError, match="a fraction of each batch"):
            traced(GradientDiversity(), num_steps=1, uncertainty_fraction=1.5)
        with pytest.raises(UsageError, match="FisherRao"):
            traced(GradientDiversity(), num_steps=1, uncertainty_fraction=0.5, geometry=Euclidean())
