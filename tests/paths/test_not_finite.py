"""NaN and infinity: they end a path at its last finite point, and are never taken for fine."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies
from torch import Tensor, nn

from fipray.errors import DataError, NetworkError, UsageError
from fipray.geometry import Euclidean, conjugate_gradients, minimal_residual, solve_in_sample_space
from fipray.networks import Network
from fipray.paths import (
    Acceptance,
    Adaptive,
    Candidate,
    Corrected,
    FirstOrder,
    FunctionalDistanceAbove,
    GradientDiversity,
    Kronecker,
    LossProfile,
    MetricDiagonal,
    Natural,
    ObjectiveBelow,
    OneShot,
    OptimalBrainSurgeon,
    PathPoint,
    Problem,
    Projected,
    Proposal,
    SaveAt,
    Scheduled,
    Settings,
    Situation,
    Sparsify,
    Switch,
    Toward,
    WeightPath,
    aligned,
    connect,
    loss_profile,
    trace,
    walk,
)
from tests.problems import batch, generator, linear, mlp, normal, problem

ANCHORS, HELD_OUT = normal(30, 6, seed=1), normal(20, 6, seed=2)
BROKEN = (math.nan, math.inf, -math.inf)


@dataclass(frozen=True)
class Moving:
    """Every weight moves by 0.01 a step, unless something is to be `broken` at a step."""

    at: int = 10**9
    displacement: float = 0.01
    gain: float = 0.0

    def begin(self, problem):
        return {"count": torch.zeros((), dtype=torch.int64)}

    def propose(self, situation, state):
        count = int(state["count"]) + 1
        displacement, gain = (self.displacement, self.gain) if count == self.at else (0.01, 0.0)
        state = {"count": torch.tensor(count)}
        return Proposal(torch.full_like(situation.weights, displacement), gain, state)


def steps_from(start: Tensor, weights: Tensor) -> int:
    return round(float((weights - start)[0]) / 0.01)


@dataclass(frozen=True)
class Breaks:
    """An objective, an event, a probe and a radius control in one: `value` from step `at` on."""

    value_of: float
    at: int
    start: Tensor = field(default_factory=lambda: network().weights)
    goal: bool = False
    limit: bool = False

    def value(self, problem, weights, batch):
        return weights.sum() * 0 + (self.value_of if self._is_there(weights) else 1.0)

    def reason(self, point: PathPoint) -> Any:
        return self.value_of if self._is_there(point.weights) else None

    def probe(self, weights: Tensor) -> float:
        return self.value_of if self._is_there(weights) else 1.0

    def begin(self, problem):
        return 1.0

    def judge(self, candidate: Candidate) -> Acceptance:
        return Acceptance(True, self.value_of if self._is_there(candidate.after) else 1.0)

    def _is_there(self, weights: Tensor) -> bool:
        return steps_from(self.start, weights.detach()) >= self.at


def network() -> Network:
    return mlp(6, 5, 4)


def traced(objective: Any = None, stepper: Any = None, **changes: Any) -> WeightPath:
    usual = {"radius": Scheduled(1.0), "num_steps": 8, "save_at": SaveAt(8), "batch_size": 10}
    given = {"anchors": ANCHORS, "held_out": HELD_OUT, **usual, **changes}
    return trace(network(), objective=objective or Breaks(1.0, 0), stepper=stepper or Moving(), **given)


def assert_ended(path: WeightPath, step: int, cause: str) -> None:
    """The path ended at `step`, where all is finite, because of something later on."""
    assert path.outcome.kind == "not finite"
    assert path.outcome.sentence.startswith(f"{cause}, so the path ended at step {step}, its last finite point")
    assert [point.step for point in path.points] == list(range(step + 1))
    assert_finite(path)


def assert_finite(path: WeightPath) -> None:
    for point in path.points:
        numbers = (point.functional_distance, point.functional_distance_held_out, point.objective_value, point.radius)
        assert all(map(math.isfinite, (*numbers, point.sparsity, *point.probes.values())))
        assert bool(torch.isfinite(point.weights).all())


@pytest.mark.parametrize("value", BROKEN)
class TestWhatAUserGives:
    def test_an_objective_that_is_not_finite_ends_the_path_before(self, value):
        assert_ended(traced(Breaks(value, 4)), 3, f"the objective was {value} at step 4")

    def test_a_probe_that_is_not_finite_ends_the_path_before(self, value):
        path = traced(probes={"fine": Breaks(2.0, 0).probe, "size": Breaks(value, 3).probe})
        assert_ended(path, 2, f"the probe 'size' was {value} at step 3")

    @pytest.mark.parametrize("kind", [{}, {"goal": True}, {"limit": True}])
    def test_an_event_that_answers_with_no_sentence_but_nan_ends_the_path_before(self, value, kind):
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

    def test_what_is_not_finite_at_the_start_is_said_at_once(self, value):
        told: list[PathPoint] = []
        with pytest.raises(UsageError, match=rf"the objective was {value} at the path's start"):
            traced(Breaks(value, 0), on_point=told.append)
        with pytest.raises(UsageError, match=rf"the probe 'size' was {value} at the path's start"):
            traced(probes={"size": Breaks(value, 0).probe}, on_point=told.append)

        class Starts(Scheduled):
            def begin(self, problem):
                return value

        with pytest.raises(UsageError, match=rf"the radius was {value} at the path's start"):
            traced(radius=Starts(1.0), on_point=told.append)
        assert not told

    def test_a_value_between_two_kept_points_is_found_at_the_next(self, value):
        path = traced(Breaks(value, 3), save_at=SaveAt(2))
        assert path.outcome.sentence.startswith(f"the objective was {value} at step 4, so the path ended at step 0")
        assert len(path.points) == 1

    def test_a_paused_path_is_not_said_to_wait_at_such_a_point(self, value):
        path = traced(Breaks(value, 4), save_at=SaveAt(1), until=4)
        assert path.outcome.kind == "not finite"
        assert path.end.step == 0

    def test_a_limit_that_is_passed_is_looked_for_among_finite_points_alone(self, value):
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


@settings(max_examples=30, derandomize=True, deadline=None)
@given(
    what=strategies.sampled_from(["objective", "probe", "event", "limit", "radius", "displacement", "gain"]),
    value=strategies.sampled_from(BROKEN),
    at=strategies.integers(1, 12),
    num_points=strategies.integers(1, 12),
    adaptive=strategies.booleans(),
)
def test_whatever_breaks_and_when_the_outcome_says_so_and_all_rows_are_finite(what, value, at, num_points, adaptive):
    breaks = Breaks(value, at)
    radius = Adaptive(1.0, tolerance=2.8) if adaptive else Scheduled(1.0)
    changes: dict[str, Any] = {
        "objective": {"objective": breaks},
        "probe": {"probes": {"size": breaks.probe}},
        "event": {"events": [breaks]},
        "limit": {"events": [replace(breaks, limit=True)]},
        "radius": {"radius": breaks},
        "displacement": {"stepper": Moving(at, displacement=value)},
        "gain": {"stepper": Moving(at, gain=value)},
    }[what]
    path = traced(**{"radius": radius, "num_steps": 12, "save_at": SaveAt(num_points), **changes})
    assert path.outcome.kind == "not finite"
    assert path.end.step < at
    assert_finite(path)


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

    def test_from_where_nothing_is_known_no_step_leads_nearer(self):
        assert self.judged(distance_before=math.nan, distance_after=0.3) == Acceptance(False, 0.5)

    def test_a_radius_does_not_grow_where_the_error_of_the_distance_is_not_known(self):
        assert self.judged(distance_at_most=math.nan) == Acceptance(True, 1.0)
        assert self.judged() == Acceptance(True, 1.5)

    @pytest.mark.parametrize("broken", [0, 1])
    def test_the_greater_of_two_distances_is_nan_where_one_of_them_is(self, broken):
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

    def test_a_radius_that_nothing_shortens_stays_finite(self):
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


class Logarithm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.log(inputs * self.scale)


def test_steps_that_are_refused_because_the_objective_is_not_finite_are_no_completed_path():
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


def test_a_control_that_accepts_what_it_saw_to_be_nan_ends_the_path():
    class Accepts(Scheduled):
        def judge(self, candidate):
            return Acceptance(math.isnan(candidate.gain) or True, 1.0)

    path = traced(Breaks(math.nan, 4), radius=Accepts(1.0))
    assert_ended(path, 3, "the gain was nan at step 4")


def test_a_slope_of_nan_is_no_flat_objective():
    made = Situation(problem(network()), GradientDiversity(), network().weights, batch(problem(network()), 3, 6), 1.0)
    vars(made)["slope"] = torch.full_like(made.weights, math.nan)
    assert bool(made.descent.isnan().all())
    vars(made)["slope"] = torch.zeros_like(made.weights)
    assert not made.descent.any()


class TestOutputs:
    """A row of zeros in a normalised layer has the norm 0, and makes outputs NaN."""

    def network(self) -> Network:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = nn.Sequential(Normalised(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
            module[0].weight.data[0] *= 1e-2
            return Network.of(module)

    @pytest.mark.parametrize(
        "stepper",
        [
            Natural(),
            Natural(iterations=None),
            FirstOrder(),
            FirstOrder(beta=0.1),
            Kronecker(),
            Projected(),
            Projected(dense=0),
            OneShot(),
            Corrected(FirstOrder(), Natural()),
            Switch(FirstOrder(), Natural(), at=0.5),
        ],
        ids=lambda stepper: type(stepper).__name__,
    )
    @pytest.mark.parametrize("radius", [Adaptive(tolerance=2.5), Scheduled(0.05)])
    @pytest.mark.parametrize("num_points", [1, 10])
    def test_a_path_to_where_they_are_nan_ends_before(self, stepper, radius, num_points):
        path = trace(
            Problem(self.network(), anchors=ANCHORS, held_out=HELD_OUT),
            Sparsify(0.6),
            Settings(stepper=stepper, radius=radius, num_steps=10, batch_size=10, save_at=SaveAt(num_points)),
        )
        assert path.outcome.kind == "not finite"
        assert_finite(path)
        assert bool(torch.isfinite(self.network().outputs(path.end.weights, HELD_OUT)).all())

    @pytest.mark.parametrize("saliency", [MetricDiagonal(), OptimalBrainSurgeon()])
    def test_saliencies_are_not_finite_there_either_and_the_path_ends_before(self, saliency):
        path = trace(
            Problem(self.network(), anchors=ANCHORS, held_out=HELD_OUT),
            Sparsify(0.8, saliency=saliency),
            Settings(radius=Scheduled(0.05), num_steps=10, batch_size=10),
        )
        assert path.outcome.kind == "not finite"
        assert_finite(path)

    def test_walk_says_at_which_step(self):
        where = problem(network())
        steps = walk(
            where,
            batch(where, 20, 6),
            GradientDiversity(),
            Settings(stepper=Moving(at=3, displacement=math.nan), radius=Scheduled(1.0), num_steps=5, batch_size=10),
        )
        assert [next(steps).step for _ in range(2)] == [1, 2]
        with pytest.raises(StopIteration) as end:
            next(steps)
        assert str(end.value.value) == "the length of the displacement was nan at step 3"

    @pytest.mark.parametrize("what", ["anchors", "held_out"])
    def test_inputs_on_which_they_are_not_finite_from_the_start_are_counted(self, what):
        """Beyond those inputs that a network is tried on when it is made."""
        inputs = torch.rand(100, 2, generator=generator(), dtype=torch.float64) + 0.5
        broken = inputs.clone()
        broken[70:73] = -1.0
        given = {"anchors": inputs, "held_out": inputs, what: broken}
        name = {"anchors": "anchors", "held_out": "held-out inputs"}[what]
        with pytest.raises(DataError, match=f"not finite on 3 of 100 {name}, the first at index 70"):
            trace(Network.of(Logarithm().double()), objective=Toward(torch.zeros(1)), geometry=Euclidean(), **given)
        with pytest.raises(DataError, match=f"not finite on 3 of 100 {name}, the first at index 70"):
            Problem(Logarithm().double(), geometry=Euclidean(), **given)

    def test_weights_that_are_not_finite_are_named(self):
        broken = network().weights.clone()
        broken[3] = math.inf
        given = {"anchors": ANCHORS, "held_out": HELD_OUT, "objective": GradientDiversity()}
        with pytest.raises(UsageError, match="1 of 59 weights are NaN or infinite in network 2 of the others"):
            trace(network(), others=(network().weights, broken), **given)
        unused = Network.of(Unused().double())
        with pytest.raises(NetworkError, match="1 of 7 weights are NaN or infinite in the network"):
            trace(unused, **given)
        with pytest.raises(UsageError, match="the network to walk to hold NaN or infinity"):
            trace(network(), **{**given, "objective": Toward(broken)})
        with pytest.raises(UsageError, match="1 of 59 weights are NaN or infinite"):
            connect(Problem(network(), ANCHORS, HELD_OUT), broken)


class Normalised(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.linear(inputs, self.weight / self.weight.norm(dim=1, keepdim=True), self.bias)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.rest = nn.Linear(6, 1, bias=False), nn.Parameter(torch.tensor([math.nan]))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([self.layer(inputs), 2 * self.layer(inputs)], 1)


class Hole(nn.Module):
    """`f = w x`, but NaN where the first weight is within 0.25 of 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.0, 0.0], [0.0, 0.0]]))

    def forward(self, inputs: Tensor) -> Tensor:
        hole = (self.weight[0, 0] - 0.5).abs() < 0.25
        return inputs @ self.weight.T + torch.where(hole, math.nan, 0.0)


class TestConnecting:
    INPUTS = normal(20, 2, seed=5)

    def connected(self, **settings: Any) -> Any:
        problem = Problem(Hole().double(), self.INPUTS, self.INPUTS, geometry=Euclidean())
        other = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
        near = {"radius": Adaptive(initial=0.02, tolerance=3.75)}
        walked = Settings(num_steps=10, **{**near, **settings})
        return connect(problem, other, walked, allowed_distance=5.0, num_rounds=2)

    def test_a_segment_on_which_outputs_are_nan_is_no_connection(self):
        """Both ends are well within what is allowed, and nothing leads round the hole."""
        made = self.connected()
        assert made.outcome.kind != "connected"
        assert made.distance == math.inf

    def test_a_turn_that_leads_to_nan_is_taken_back(self):
        made = self.connected(radius=Scheduled(1.0), stepper=Into())
        assert made.outcome.kind == "not finite"
        assert "no longer finite after round 1" in made.outcome.sentence
        assert torch.equal(made.points[0], torch.zeros(4, dtype=torch.float64))
        assert len(made.points) == 5  # both networks, and three points between them

    @pytest.mark.parametrize("losses", [(0.0, math.nan, 1.0), (math.nan, 0.0, 1.0), (0.0, 1.0, math.nan)])
    def test_a_profile_with_nan_has_no_greatest_loss_and_no_barrier(self, losses):
        profile = LossProfile((0.0, 0.5, 1.0), losses)
        assert math.isnan(profile.maximum)
        assert math.isnan(profile.barrier)
        fine = LossProfile((0.0, 0.5, 1.0), (0.0, 2.0, 1.0))
        assert (fine.maximum, fine.barrier) == (2.0, 1.5)

    def test_weights_that_are_not_finite_are_not_aligned(self):
        broken = network().weights * math.nan
        with pytest.raises(NetworkError, match="59 weights are NaN or infinite"):
            aligned(network(), network().weights, broken, ANCHORS)

    def test_points_of_a_polyline_are_finite(self):
        with pytest.raises(UsageError, match="hold NaN or infinity"):
            loss_profile((torch.zeros(3), torch.full((3,), math.nan)), lambda weights: 0.0)


@dataclass(frozen=True)
class Into:
    """To the middle of the hole, from either side."""

    def begin(self, problem):
        return {}

    def propose(self, situation, state):
        goal = torch.tensor([0.5, 0.0, 0.0, 0.0], dtype=torch.float64)
        return Proposal(goal - situation.weights, 0.0)


class TestSolvers:
    RIGHT = torch.tensor([1.0, math.nan], dtype=torch.float64)

    @pytest.mark.parametrize("solve", [conjugate_gradients, minimal_residual])
    def test_a_right_side_or_a_product_of_nan_has_no_solution(self, solve):
        assert bool(solve(lambda z: z, self.RIGHT, iterations=3).solution.isnan().all())
        fine = torch.ones(2, dtype=torch.float64)
        assert bool(solve(lambda z: z * math.nan, fine, iterations=3).solution.isnan().all())
        torch.testing.assert_close(solve(lambda z: 2 * z, fine, iterations=3).solution, fine / 2)

    @pytest.mark.parametrize("shift", [0.0, 0.1])
    @pytest.mark.parametrize("filled", [True, False])
    def test_a_gram_matrix_with_nan_has_no_inverse(self, shift, filled):
        """Of one LAPACK says, by its size, that it fails, or an inverse of what is left."""
        gram = torch.eye(5, dtype=torch.float64)
        gram[0, 0] = math.nan
        gram = torch.full_like(gram, math.nan) if filled else gram
        assert bool(solve_in_sample_space(gram, torch.ones(5, dtype=torch.float64), shift=shift).isnan().all())


def test_a_linear_network_is_as_it_was():
    """Where all is finite nothing ends early."""
    path = trace(
        Problem(linear(6, 2), anchors=ANCHORS, held_out=HELD_OUT, geometry=Euclidean()), Toward(torch.zeros(12))
    )
    assert path.outcome.kind == "completed"
