"""What a path says of how it ended: NaN is never fine, and an objective that got worse is called so."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings, strategies as st

from fipray.errors import NetworkError, UsageError
from fipray.geometry import Network
from fipray.paths import (
    AdaptiveRadius,
    Corrected,
    FirstOrderStep,
    FunctionalDistanceAbove,
    NaturalStep,
    ObjectiveBelow,
    PublishedStep,
    RandomWalk,
    SaveAt,
    ScheduledRadius,
    Sparsify,
    Switch,
    WeightedSum,
    trace,
)
from fipray.paths.event import compared
from fipray.paths.path import not_finite
from tests.problems import mlp, normal

BROKEN = [math.nan, math.inf, -math.inf]


@dataclass(frozen=True)
class Downhill:
    """`sign |w|^2`, and from its `at`-th call on what is broken. Points are measured with a call each."""

    broken: float = 0.0
    at: int = 10**9
    sign: float = 1.0
    calls: tuple[list[int], ...] = ([],)

    def value(self, problem, weights, batch):
        self.calls[0].append(1)
        square = self.sign * weights.square().sum()
        return square * self.broken if len(self.calls[0]) >= self.at else square

    def gradient(self, problem, weights, batch):
        return 2 * weights


def walked(objective, network: Network | None = None, **changes):
    network = network or mlp(6, 8, 3)
    chosen = {
        "stepper": FirstOrderStep(beta=1.0),
        "radius": ScheduledRadius(0.01),
        "num_steps": 8,
        "save_at": SaveAt(8),
        "anchors": normal(40, 6),
        "held_out": normal(20, 6, seed=1),
        "batch_size": 20,
    }
    return trace(network, objective=objective, **{**chosen, **changes})


def assert_ends_before(path, step: int) -> None:
    assert path.outcome.kind == "not finite"
    assert f"at step {step} not finite" in path.outcome.sentence
    assert path.end.step == step - 1
    assert all(not_finite(point) == "" for point in path.points)


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("events", [(), (FunctionalDistanceAbove(100.0), ObjectiveBelow(-1e9))], ids=["none", "both"])
def test_a_path_ends_at_the_last_point_at_which_the_objective_is_finite(broken, events):
    assert_ends_before(walked(Downhill(broken, at=5, calls=([],)), events=events), 4)


@pytest.mark.parametrize("broken", BROKEN)
def test_a_path_ends_at_the_last_point_at_which_a_probe_is_finite(broken):
    seen = []

    def probe(weights):
        seen.append(1)
        return broken if len(seen) > 3 else 0.5

    path = walked(Downhill(calls=([],)), probes={"mine": probe})
    assert_ends_before(path, 3)
    assert "probe 'mine'" in path.outcome.sentence


@settings(max_examples=12, derandomize=True, deadline=None)
@given(step=st.integers(1, 8), broken=st.sampled_from(BROKEN), adaptive=st.booleans())
def test_whatever_step_breaks_all_kept_points_are_finite(step, broken, adaptive):
    seen = []

    def probe(weights):
        seen.append(1)
        return broken if len(seen) > step else 0.0

    radius = AdaptiveRadius(0.001, tolerance=1.0, least_gain_ratio=-100.0) if adaptive else ScheduledRadius(0.01)
    assert_ends_before(walked(Downhill(calls=([],)), probes={"mine": probe}, radius=radius), step)


def test_a_point_in_the_middle_that_is_not_finite_does_not_count_as_within_a_limit():
    """Bisection between two points looks at NaN, too, and does not end there."""
    seen = []

    def probe(weights):
        seen.append(1)
        return math.nan if len(seen) > 2 else 0.5  # the start, the first candidate, then all points between

    far = FunctionalDistanceAbove(1e-6)
    path = walked(Downhill(calls=([],)), probes={"mine": probe}, events=[far])
    assert path.outcome.kind == "stopped"
    assert all(not_finite(point) == "" for point in path.points)


@dataclass(frozen=True)
class Overflowing:
    """A restriction that leaves nothing."""

    def value(self, problem, weights, batch):
        return weights.square().sum()

    def restrict(self, problem, weights, progress, batch):
        return weights * math.nan if progress > 0.5 else weights

    def tangent(self, problem, weights):
        return lambda vector: vector


def test_weights_that_a_restriction_broke_are_never_kept():
    assert_ends_before(walked(Overflowing()), 5)


class Reciprocal(torch.nn.Module):
    """Not finite where the first input is 0."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(6, 3, dtype=torch.float64)

    def forward(self, x):
        return self.layer(x) / x[:, :1]


@pytest.mark.parametrize("which", ["anchors", "held_out"])
def test_inputs_on_which_the_base_is_not_finite_are_counted_before_the_first_step(which):
    inputs = normal(200, 6)
    inputs[[150, 171], 0] = 0.0
    name = "anchors" if which == "anchors" else "held-out inputs"
    with pytest.raises(NetworkError, match=rf"2 of 200 {name} are NaN or infinite, the first at index 150"):
        walked(RandomWalk(), Network.of(Reciprocal()), **{which: inputs})


def test_an_objective_that_is_not_finite_at_the_start_is_refused():
    with pytest.raises(UsageError, match=r"not finite where the path begins.*the objective"):
        walked(Downhill(math.nan, at=1, calls=([],)))


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (0.5, 0.47, "better"),
        (0.47, 0.5, "worse"),
        (0.5, 0.5, "no better"),
        (0.5, 0.5 + 1e-8, "no better"),
        (0, 0, "no better"),
    ],
)
def test_two_values_of_an_objective_are_compared(start, end, said):
    assert compared(start, end) == said


@pytest.mark.parametrize(("sign", "said"), [(1.0, "better"), (-1.0, "worse")])
def test_an_outcome_says_what_became_of_the_objective(sign, said):
    path = walked(Downhill(sign=sign, calls=([],)))
    first, last = path.points[0].objective_value, path.end.objective_value
    assert path.outcome.kind == "completed"
    assert path.outcome.sentence == f"all 8 steps were walked; objective {first:.4g} -> {last:.4g}: {said}"


@pytest.mark.parametrize(
    "stepper",
    [
        FirstOrderStep(),
        PublishedStep(penalty=0.0),
        Corrected(FirstOrderStep(), NaturalStep()),
        Switch(FirstOrderStep(), PublishedStep(penalty=0.0)),
    ],
    ids=lambda stepper: type(stepper).__name__,
)
def test_a_stepper_that_ignores_its_objective_is_refused(stepper):
    for objective in (RandomWalk(), WeightedSum(((1.0, RandomWalk()),))):
        with pytest.raises(UsageError, match="does not follow an objective, so"):
            walked(objective, stepper=stepper)


@pytest.mark.parametrize(
    "stepper", [Corrected(NaturalStep(), FirstOrderStep()), Switch(FirstOrderStep(), NaturalStep())]
)
def test_a_stepper_that_follows_its_objective_somewhere_is_taken(stepper):
    assert walked(RandomWalk(), stepper=stepper, num_steps=2).outcome.kind == "completed"


def test_a_restriction_needs_no_stepper_that_follows_it():
    assert walked(Sparsify(0.5), stepper=FirstOrderStep()).end.sparsity == pytest.approx(0.5, abs=0.02)


def test_adaptive_radius_refuses_a_candidate_whose_distance_is_nan():
    from fipray.paths.radius import Candidate

    class Made:
        radius = 1.0

    candidate = Candidate(Made(), torch.zeros(1), 1.0, None)  # type: ignore[arg-type]
    for own, fresh in ((math.nan, 0.0), (0.0, math.nan)):
        vars(broken := replace(candidate)).update(
            {"_fresh": (fresh, fresh), "_distance_on_own": own, "gain": 1.0, "distance_before": 1.0}
        )
        assert not AdaptiveRadius(tolerance=0.1).judge(broken).accepted
