"""Walking to another network, and nowhere in particular."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import fipray
from fipray.errors import UsageError
from fipray.geometry import Euclidean
from fipray.networks import Network
from fipray.paths import Adaptive, Natural, Problem, RandomWalk, Scheduled, Settings, Toward, trace
from fipray.paths.calls import gradient
from fipray.study.canonical import from_json, to_json
from tests.margins import assert_above, assert_below
from tests.problems import batch, linear, mlp, normal, problem


class TestToward:
    def test_the_value_falls_from_one_at_the_start_to_nothing_where_the_other_network_is_reached(self):
        where = problem(mlp(5, 6, 3))
        goal = normal(where.network.num_weights)
        values = [
            float(Toward(goal).value(where, torch.lerp(where.start, goal, t), batch(where, 4, 5)))
            for t in (0, 0.25, 0.5, 1)
        ]
        assert values == pytest.approx([1, 0.75**2, 0.25, 0])

    def test_the_gradient_points_away_from_the_other_network(self):
        where = problem(mlp(5, 6, 3))
        goal, weights = normal(where.network.num_weights), normal(where.network.num_weights, seed=1)
        expected = 2 * (weights - goal) / (where.start - goal).square().sum()
        torch.testing.assert_close(gradient(Toward(goal), where, weights, batch(where, 4, 5)), expected)

    def test_without_weights_it_is_the_first_of_the_others(self):
        where = problem(mlp(5, 6, 3))
        goal = normal(where.network.num_weights)
        with_others = replace(where, others=(goal, -goal))
        weights, inputs = 2 * where.start, batch(where, 4, 5)
        assert Toward().value(with_others, weights, inputs) == Toward(goal).value(where, weights, inputs)

    def test_where_the_metric_keeps_nothing_the_path_is_the_straight_line(self):
        network = linear(4, 3)
        inputs = torch.zeros(8, 4, dtype=torch.float64)  # no weight changes the outputs on them
        goal = normal(network.num_weights)
        path = trace(
            Problem(network, anchors=inputs, held_out=inputs, geometry=Euclidean(), others=(goal,)),
            Toward(),
            Settings(stepper=Natural(), radius=Scheduled(0.05, 0.05), num_steps=10),
        )
        way = (goal - network.weights) / torch.linalg.vector_norm(goal - network.weights)
        step = 0.05 * torch.linalg.vector_norm(network.weights)
        for point in path.points:
            torch.testing.assert_close(point.weights, network.weights + point.step * step * way)

    def test_what_the_function_needs_stays_and_the_rest_goes_to_the_other_network(self):
        network = linear(3, 1)
        inputs = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
        goal = normal(3)
        path = trace(
            Problem(network, anchors=inputs, held_out=inputs, geometry=Euclidean()),
            Toward(goal),
            Settings(stepper=Natural(damping=0.0, iterations=None), radius=Adaptive(), num_steps=60),
        )
        expected = torch.stack([network.weights[0], *goal[1:]])
        assert_below((path.end.weights - expected).abs().max(), 1e-3)

    def test_what_cannot_be_walked_to_is_refused(self):
        where = problem(mlp(5, 6, 3))
        for objective, said in (
            (Toward(), "there is none: give others"),
            (Toward(normal(7)), r"57 weights cannot walk to weights of shape \(7,\)"),
            (Toward(where.start), "no way to go"),
        ):
            with pytest.raises(UsageError, match=said):
                objective.value(where, where.start, batch(where, 4, 5))

    def test_a_study_writes_it_down_without_weights_and_refuses_a_tensor(self):
        assert from_json(to_json(Toward())) == Toward()
        assert hash(Toward()) == hash(Toward())
        assert Toward(normal(3)) != Toward(normal(3))
        with pytest.raises(UsageError, match="is a Tensor"):
            to_json(Toward(normal(3)))


class TestRandomWalk:
    def test_a_draw_is_one_direction_and_the_next_draw_another(self):
        where = problem(mlp(5, 6, 3))
        everything = batch(where, 4, 5)
        first, second = (replace(everything, seed=seed) for seed in (1, 2))
        slopes = [gradient(RandomWalk(), where, where.start, draw) for draw in (first, first, second)]
        assert torch.equal(slopes[0], slopes[1])
        assert_below(torch.cosine_similarity(slopes[0], slopes[2], dim=0).abs(), 0.5)

    def test_a_step_gains_on_its_own_batch_what_it_promises(self):
        where = problem(mlp(5, 6, 3))
        draw, objective = replace(batch(where, 4, 5), seed=3), RandomWalk()
        slope = gradient(objective, where, where.start, draw)
        step = normal(where.network.num_weights, seed=4)
        gain = objective.value(where, where.start, draw) - objective.value(where, where.start + step, draw)
        torch.testing.assert_close(gain, -(slope @ step))

    def test_where_the_set_is_flat_the_mean_square_distance_is_the_time(self):
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

    def test_it_is_offered_by_the_catalogue(self):
        assert fipray.objectives.RandomWalk is RandomWalk
        assert from_json(to_json(RandomWalk())) == RandomWalk()
