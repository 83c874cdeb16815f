"""States that steps overwrite, because nothing else needs them."""

from __future__ import annotations

import itertools

import pytest
import torch

from fipray.errors import UsageError
from fipray.paths import Adaptive, Corrected, FirstOrder, Natural, SaveAt, Scheduled, Settings, Switch, trace, walk
from fipray.paths.objectives import GradientDiversity, RandomWalk, Sparsify
from fipray.paths.state import OwnedState, taken
from fipray.paths.stepper import Situation, proposed
from fipray.paths.steppers import WithinAllowance
from tests.problems import batch, mlp, problem

STEPPERS = [
    FirstOrder(beta=0.1),
    Switch(FirstOrder(beta=0.1), FirstOrder(beta=0.3)),
    Corrected(FirstOrder(beta=0.1), Natural(warm=True)),
    WithinAllowance(FirstOrder(beta=0.1), 0.1),
]


def walked(stepper, radius, objective, *, overwrites):
    where = problem(mlp(6, 12, 4))
    settings = Settings(stepper=stepper, radius=radius, num_steps=6, batch_size=10)
    return [
        (point.step, point.weights, {name: value.clone() for name, value in point.solver_state.items()})
        for point in walk(where, batch(where, 30, 6), objective, settings, overwrites=overwrites)
    ]


@pytest.mark.parametrize("stepper", STEPPERS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("radius", [Scheduled(0.02), Adaptive(tolerance=1e-3)], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("objective", [GradientDiversity(), Sparsify(0.5)], ids=lambda one: type(one).__name__)
def test_a_walk_that_overwrites_states_is_bit_for_bit_the_one_that_does_not(stepper, radius, objective):
    kept, overwritten = (walked(stepper, radius, objective, overwrites=which) for which in (False, True))
    assert len(kept) == len(overwritten)
    for (step, weights, state), (other_step, other_weights, other_state) in zip(kept, overwritten, strict=True):
        assert step == other_step
        assert torch.equal(weights, other_weights)
        assert state.keys() == other_state.keys()
        assert all(torch.equal(value, other_state[name]) for name, value in state.items())


def test_by_default_no_step_changes_the_state_of_an_earlier_point():
    where = problem(mlp(6, 12, 4))
    settings = Settings(stepper=FirstOrder(beta=0.1), radius=Scheduled(), num_steps=4, batch_size=10)
    points, copies = [], []
    for point in walk(where, batch(where, 30, 6), GradientDiversity(), settings):
        points.append(point)
        copies.append(point.solver_state["mean"].clone())
    assert all(torch.equal(point.solver_state["mean"], copy) for point, copy in zip(points, copies, strict=True))


def test_saved_points_of_a_traced_path_keep_their_own_states():
    where = problem(mlp(6, 12, 4))
    where = type(where)(where.network, batch(where, 30, 6).inputs, batch(where, 9, 6, seed=5).inputs)
    settings = Settings(stepper=FirstOrder(beta=0.1), radius=Scheduled(), num_steps=8, batch_size=10, save_at=SaveAt(4))
    path = trace(where, GradientDiversity(), settings)
    again = trace(where, GradientDiversity(), settings, resume=path.points[:2])
    assert [point.step for point in again.points] == [point.step for point in path.points]
    assert torch.equal(again.end.weights, path.end.weights)
    means = [point.solver_state["mean"] for point in path.points[1:]]
    assert not any(torch.equal(one, other) for one, other in itertools.pairwise(means))


def situated() -> Situation:
    where = problem(mlp(6, 12, 4))
    return Situation(where, RandomWalk(), where.start, batch(where, 10, 6), radius=0.1)


def test_a_state_that_is_owned_is_taken_without_a_copy_and_only_once():
    stepper, situation = FirstOrder(beta=0.1), situated()
    state = OwnedState(stepper.begin(situation.problem))
    after = stepper.propose(situation, state).state
    assert after["mean"] is state["mean"]
    with pytest.raises(UsageError, match="called twice"):
        stepper.propose(situation, state)


def test_any_other_state_is_copied():
    state = {"mean": torch.zeros(3)}
    assert taken(state)["mean"] is not state["mean"]


def test_memory_that_runs_out_after_a_state_was_overwritten_ends_the_step():
    class Late:
        def __init__(self):
            self.calls = 0

        def begin(self, problem):
            return {}

        def propose(self, situation, state):
            self.calls += 1
            taken(state)["mean"].add_(1.0)
            raise torch.OutOfMemoryError("CUDA out of memory")

    stepper = Late()
    with pytest.raises(torch.OutOfMemoryError, match="overwrite its state"):
        proposed(stepper, situated(), OwnedState(mean=torch.zeros(3)))
    assert stepper.calls == 1


def test_the_first_order_step_counts_as_overwriting_its_state():
    stepper, situation = FirstOrder(beta=0.1), situated()
    state = OwnedState(stepper.begin(situation.problem))
    before = state["mean"]._version
    stepper.propose(situation, state)
    assert state["mean"]._version > before
