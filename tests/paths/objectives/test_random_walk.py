"""Random diffusion at constant function."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

import fipray
from fipray.geometry import Euclidean
from fipray.networks import Network
from fipray.paths import Natural, Problem, RandomWalk, Scheduled, Settings, trace
from fipray.paths.calls import gradient
from tests.margins import assert_above, assert_below
from tests.problems import batch, mlp, normal, problem


class TestRandomWalk:
    def test_the_direction_depends_on_the_draw(self):
        where = problem(mlp(5, 6, 3))
        everything = batch(where, 4, 5)
        first, second = (replace(everything, seed=seed) for seed in (1, 2))
        slopes = [gradient(RandomWalk(), where, where.start, draw) for draw in (first, first, second)]
        assert torch.equal(slopes[0], slopes[1])
        assert_below(torch.cosine_similarity(slopes[0], slopes[2], dim=0).abs(), 0.5)

    def test_the_gain_on_the_same_batch_is_the_predicted_one(self):
        where = problem(mlp(5, 6, 3))
        draw, objective = replace(batch(where, 4, 5), seed=3), RandomWalk()
        slope = gradient(objective, where, where.start, draw)
        step = normal(where.network.num_weights, seed=4)
        gain = objective.value(where, where.start, draw) - objective.value(where, where.start + step, draw)
        torch.testing.assert_close(gain, -(slope @ step))

    def test_the_mean_squared_distance_grows_as_brownian_motion_on_a_flat_set(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = Network.of(nn.Linear(4, 1000, bias=False).double())
        inputs = torch.eye(4, dtype=torch.float64)[:1]  # 1000 of 4000 weights matter
        path = trace(
            Problem(network, anchors=inputs, held_out=inputs, geometry=Euclidean()),
            RandomWalk(),
            Settings(stepper=Natural(damping=0.0, iterations=2), radius=Scheduled(0.1, 0.1), num_steps=100),
        )
        moved = path.end.weights - network.weights
        assert_below(moved.view(1000, 4)[:, 0].abs().max(), 1e-9)
        radius = 0.1 * torch.linalg.vector_norm(network.weights)
        expected = 100 * radius**2 * 3 / 4
        assert_below(moved.square().sum() / expected, 1.2)
        assert_above(moved.square().sum() / expected, 0.8)

    def test_it_is_in_the_namespace_of_objectives(self, restored):
        assert fipray.objectives.RandomWalk is RandomWalk
        assert restored(RandomWalk()) == RandomWalk()
