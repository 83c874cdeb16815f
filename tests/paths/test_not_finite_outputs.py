"""NaN and infinity in outputs, weights and solvers: paths end before, connections and solutions say so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fipray.errors import DataError, NetworkError, UsageError
from fipray.geometry import Euclidean, conjugate_gradients, minimal_residual, solve_in_sample_space
from fipray.networks import Network
from fipray.paths import (
    Adaptive,
    Corrected,
    FirstOrder,
    GradientDiversity,
    Kronecker,
    LossProfile,
    MetricDiagonal,
    Natural,
    OneShot,
    OptimalBrainSurgeon,
    Problem,
    Projected,
    Proposal,
    SaveAt,
    Scheduled,
    Settings,
    Sparsify,
    Switch,
    Toward,
    aligned,
    connect,
    loss_profile,
    trace,
    walk,
)
from tests.paths.breaking import (
    ANCHORS,
    HELD_OUT,
    Logarithm,
    Moving,
    assert_finite,
    network,
)
from tests.problems import batch, generator, linear, normal, problem


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
    def test_a_path_to_weights_with_outputs_of_nan_ends_before(self, stepper, radius, num_points):
        path = trace(
            Problem(self.network(), anchors=ANCHORS, held_out=HELD_OUT),
            Sparsify(0.6),
            Settings(stepper=stepper, radius=radius, num_steps=10, batch_size=10, save_at=SaveAt(num_points)),
        )
        assert path.outcome.kind == "not finite"
        assert_finite(path)
        assert bool(torch.isfinite(self.network().outputs(path.end.weights, HELD_OUT)).all())

    @pytest.mark.parametrize("saliency", [MetricDiagonal(), OptimalBrainSurgeon()])
    def test_a_path_whose_saliencies_are_nan_ends_before(self, saliency):
        path = trace(
            Problem(self.network(), anchors=ANCHORS, held_out=HELD_OUT),
            Sparsify(0.8, saliency=saliency),
            Settings(radius=Scheduled(0.05), num_steps=10, batch_size=10),
        )
        assert path.outcome.kind == "not finite"
        assert_finite(path)

    def test_the_outcome_of_walk_names_the_step(self):
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
    def test_inputs_with_outputs_of_nan_at_the_start_are_counted(self, what):
        """They lie beyond the first inputs, on which a network is checked when it is made."""
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
        with pytest.raises(UsageError, match="the other network hold NaN or infinity"):
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

    def test_a_round_that_leads_to_nan_is_taken_back(self):
        made = self.connected(radius=Scheduled(1.0), stepper=Into())
        assert made.outcome.kind == "not finite"
        assert "no longer finite after round 1" in made.outcome.sentence
        assert torch.equal(made.points[0], torch.zeros(4, dtype=torch.float64))
        assert len(made.points) == 5  # both networks, and three points between them

    @pytest.mark.parametrize("losses", [(0.0, math.nan, 1.0), (math.nan, 0.0, 1.0), (0.0, 1.0, math.nan)])
    def test_a_profile_with_nan_has_a_maximum_and_a_barrier_of_nan(self, losses):
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
        """LAPACK fails or returns an inverse of the finite part, depending on the size."""
        gram = torch.eye(5, dtype=torch.float64)
        gram[0, 0] = math.nan
        gram = torch.full_like(gram, math.nan) if filled else gram
        assert bool(solve_in_sample_space(gram, torch.ones(5, dtype=torch.float64), shift=shift).isnan().all())


def test_a_finite_path_does_not_end_early():
    path = trace(
        Problem(linear(6, 2), anchors=ANCHORS, held_out=HELD_OUT, geometry=Euclidean()), Toward(torch.zeros(12))
    )
    assert path.outcome.kind == "completed"
