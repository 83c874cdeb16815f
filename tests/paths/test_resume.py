"""Resumed and paused paths equal the uninterrupted one; a path with a limit never leaves it."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load, save

from fipray.errors import UsageError
from fipray.paths import (
    Adaptive,
    Corrected,
    FirstOrder,
    FunctionalDistanceAbove,
    GradientDiversity,
    InputNullSpace,
    Kronecker,
    Natural,
    ObjectiveBelow,
    PathPoint,
    Problem,
    SaveAt,
    Scheduled,
    Settings,
    Sparsify,
    Switch,
    Switched,
    trace,
)
from tests.margins import assert_above
from tests.problems import mlp, normal

ANCHORS, HELD_OUT = normal(40, 6, seed=1), normal(30, 6, seed=2)
STEPPERS = {
    "natural": Natural(iterations=3),
    "first order": FirstOrder(beta=0.3),
    "kronecker": Kronecker(refresh=3),
    "null space": InputNullSpace(num_batches=3),
    "corrected": Corrected(FirstOrder(beta=0.3), Natural()),
    "switch": Switch(FirstOrder(beta=0.3), Natural(), at=0.5),
}
RADII = {
    "adaptive": Adaptive(tolerance=0.2),
    "scheduled": Scheduled(0.02),
    "switched": Switched(Scheduled(0.02), Adaptive(tolerance=0.3), at=0.5),
}
OBJECTIVES = {"diversify": GradientDiversity(), "sparsify": Sparsify(0.5)}


def traced(objective="diversify", stepper="first order", radius="scheduled", **settings):
    return trace(
        mlp(6, 8, 4),
        anchors=ANCHORS,
        held_out=HELD_OUT,
        objective=OBJECTIVES[objective],
        stepper=STEPPERS[stepper],
        radius=RADII[radius],
        **{"num_steps": 10, "batch_size": 16, "save_at": SaveAt(5), "seed": 3} | settings,
    )


def through_a_file(point: PathPoint) -> PathPoint:
    """The point as it comes back from bytes."""
    kept = load(save({"weights": point.weights, **{f"state.{k}": v for k, v in point.solver_state.items()}}))
    state = {name.removeprefix("state."): value for name, value in kept.items() if name != "weights"}
    return replace(point, weights=kept["weights"], solver_state=state)


def assert_equal_from(number: int, resumed, whole) -> None:
    assert resumed.outcome == whole.outcome
    assert [point.step for point in resumed.points] == [point.step for point in whole.points]
    for mine, theirs in zip(resumed.points[number:], whole.points[number:], strict=True):
        assert torch.equal(mine.weights, theirs.weights)
        assert mine.radius == theirs.radius
        assert mine.objective_value == theirs.objective_value
        assert mine.functional_distance_held_out == theirs.functional_distance_held_out
        assert mine.solver_state.keys() == theirs.solver_state.keys()
        assert all(torch.equal(value, theirs.solver_state[name]) for name, value in mine.solver_state.items())


@pytest.mark.parametrize(
    ("objective", "radius"), [*(("diversify", radius) for radius in RADII), ("sparsify", "switched")]
)
@pytest.mark.parametrize("stepper", STEPPERS)
def test_a_path_resumed_from_a_file_is_the_uninterrupted_one_bit_for_bit(stepper, radius, objective):
    whole = traced(objective, stepper, radius)
    number = len(whole.points) // 2
    assert 2 <= number < len(whole.points) - 1
    so_far = [through_a_file(point) for point in whole.points[:number]]
    assert_equal_from(number, traced(objective, stepper, radius, resume=so_far), whole)


def test_a_path_resumed_from_its_start_is_the_whole_path():
    whole = traced()
    assert_equal_from(1, traced(resume=whole.points[:1]), whole)


def test_a_path_of_few_points_and_refused_steps_resumes_too():
    """Between kept points steps were refused and the radius moved."""
    settings = {"radius": "adaptive", "stepper": "first order", "num_steps": 40, "save_at": SaveAt(4)}
    whole = traced(**settings)
    assert_equal_from(2, traced(**settings, resume=whole.points[:2]), whole)


def test_a_point_without_solver_state_cannot_be_resumed_from_and_the_error_says_what_to_do():
    whole = traced(save_at=SaveAt(5, solver_state=False))
    assert all(point.solver_state == {} for point in whole.points)
    with pytest.raises(UsageError, match=r"point 4 has no solver state.*SaveAt\(solver_state=True\)"):
        traced(resume=whole.points[:3])


def test_points_without_solver_states_are_otherwise_the_same():
    with_states, without = traced(), traced(save_at=SaveAt(5, solver_state=False))
    for mine, theirs in zip(with_states.points, without.points, strict=True):
        assert torch.equal(mine.weights, theirs.weights)


def test_resuming_does_not_touch_the_points_that_it_is_given():
    points = traced().points[:3]
    before = {name: value.clone() for name, value in points[-1].solver_state.items()}
    traced(resume=points)
    assert points[-1].solver_state.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in points[-1].solver_state.items())


def test_a_resumed_path_ends_on_the_same_event():
    settings = {"events": [ObjectiveBelow(0.9)], "num_steps": 40, "save_at": SaveAt(40)}
    whole = traced(**settings)
    assert whole.outcome.kind == "stopped"
    number = len(whole.points) // 2
    assert_equal_from(number, traced(**settings, resume=whole.points[:number]), whole)


class TestALimit:
    """FunctionalDistanceAbove: no kept point lies outside."""

    @pytest.mark.parametrize("seed", range(8))
    @pytest.mark.parametrize("num_points", [1, 40])
    def test_every_kept_point_is_within_and_the_end_is_close_to_the_limit(self, seed, num_points):
        path = trace(
            Problem(mlp(6, 8, 4, seed=seed), anchors=ANCHORS, held_out=HELD_OUT),
            GradientDiversity(),
            Settings(
                stepper=FirstOrder(beta=10),
                radius=Scheduled(0.05),
                events=[FunctionalDistanceAbove(0.1)],
                num_steps=40,
                batch_size=16,
                save_at=SaveAt(num_points),
                seed=seed,
            ),
        )
        assert path.outcome.kind == "stopped"
        assert "above 0.1" in str(path.outcome)
        assert all(point.functional_distance_held_out <= 0.1 for point in path.points)
        assert_above(path.end.functional_distance_held_out, 0.08)
        assert [point.step for point in path.points] == sorted({point.step for point in path.points})

    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("stepper", [FirstOrder(beta=1e-3), Natural()])
    def test_a_restricted_path_that_ends_at_its_limit_keeps_the_zeros_that_it_had(self, seed, stepper):
        path = trace(
            Problem(mlp(6, 8, 4, seed=seed), anchors=ANCHORS, held_out=HELD_OUT),
            Sparsify(0.9 - 12 / 92),
            Settings(
                stepper=stepper,
                radius=Scheduled(0.01),
                events=[FunctionalDistanceAbove(0.1)],
                num_steps=15,
                batch_size=16,
                save_at=SaveAt(15),
                seed=seed,
            ),
        )
        assert path.outcome.kind == "stopped"
        assert all(point.functional_distance_held_out <= 0.1 for point in path.points)
        zeros = [point.weights == 0 for point in path.points]
        assert bool(zeros[-1].any())
        for before, after in pairwise(zeros):
            assert bool((after | ~before).all())


def test_a_path_that_was_cut_off_at_its_goal_still_ends_exactly_sparse():
    """Cut off between the point that reached the goal and the whole restriction that the goal gives it."""
    kept: list[PathPoint] = []
    settings = {
        "anchors": normal(30, 6, seed=1),
        "held_out": normal(10, 6, seed=2),
        "objective": Sparsify(0.5),
        "stepper": FirstOrder(),
        "events": [ObjectiveBelow(1e9)],
        "num_steps": 10,
    }
    whole = trace(mlp(6, 9, 4), on_point=kept.append, **settings)
    reached = next(point for point in kept if point.step > 0)
    assert reached.sparsity < whole.end.sparsity
    resumed = trace(mlp(6, 9, 4), resume=[kept[0], reached], **settings)
    assert torch.equal(resumed.end.weights, whole.end.weights)
    assert resumed.outcome == whole.outcome
    assert len(resumed.points) == len(whole.points)


class TestAPause:
    """`until` pauses a path, and resuming it gives the uninterrupted one."""

    SETTINGS = (
        {"radius": "scheduled", "num_steps": 12, "save_at": SaveAt(3)},
        {"radius": "adaptive", "num_steps": 20, "save_at": SaveAt(4)},  # refuses steps
        {"objective": "sparsify", "num_steps": 12, "save_at": SaveAt(5)},
        {"num_steps": 30, "save_at": SaveAt(3), "events": [FunctionalDistanceAbove(0.15)]},
        {"num_steps": 30, "save_at": SaveAt(10), "events": [ObjectiveBelow(0.9)]},
    )

    @pytest.mark.parametrize("settings", SETTINGS, ids=["scheduled", "adaptive", "sparsify", "limit", "goal"])
    def test_a_path_of_many_pauses_has_the_points_of_the_uninterrupted_one(self, settings):
        whole = traced(**settings)
        points, paused = [], 0
        for until in range(1, settings["num_steps"] + 1, 2):
            path = traced(**settings, resume=points, until=until)
            if path.outcome.kind != "paused":
                break
            assert path.end.step <= until
            points, paused = [through_a_file(point) for point in path.points], paused + 1
        else:
            path = traced(**settings, resume=points)
        assert_above(math.log(paused / 2), 0)
        assert_equal_from(0, path, whole)

    def test_the_last_point_is_kept_with_its_state_whatever_save_at_says(self):
        kept: list[PathPoint] = []
        path = traced(save_at=SaveAt(1, solver_state=False), until=3, on_point=kept.append)
        assert str(path.outcome) == "paused at step 3 of 10"
        assert [point.step for point in path.points] == [0, 3]
        assert tuple(kept) == path.points
        assert path.end.solver_state

    def test_a_path_that_is_paused_where_it_waits_already_stays_there(self):
        path = traced(until=3)
        again = traced(until=2, resume=path.points)
        assert again.outcome.kind == "paused"
        assert torch.equal(again.end.weights, path.end.weights)
        assert [point.step for point in again.points] == [point.step for point in path.points]

    def test_until_counts_steps_from_one(self):
        with pytest.raises(UsageError, match="until=0 was given"):
            traced(until=0)
