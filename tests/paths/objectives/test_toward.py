"""Paths towards another network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fipray.errors import UsageError
from fipray.geometry import Euclidean
from fipray.paths import Adaptive, Natural, Problem, Scheduled, Settings, Toward, trace
from fipray.paths.calls import gradient
from tests.margins import assert_below
from tests.problems import batch, linear, mlp, normal, problem


class TestToward:
    def test_the_value_falls_from_one_at_the_base_network_to_zero_at_the_other(self):
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

    def test_without_weights_the_goal_is_the_first_of_the_others(self):
        where = problem(mlp(5, 6, 3))
        goal = normal(where.network.num_weights)
        with_others = replace(where, others=(goal, -goal))
        weights, inputs = 2 * where.start, batch(where, 4, 5)
        assert Toward().value(with_others, weights, inputs) == Toward(goal).value(where, weights, inputs)

    def test_the_path_is_straight_if_the_metric_keeps_nothing(self):
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

    def test_weights_that_the_function_needs_stay_and_the_rest_approach_the_other_network(self):
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

    def test_an_unsuitable_goal_is_refused(self):
        where = problem(mlp(5, 6, 3))
        for objective, said in (
            (Toward(), "there is none: give others"),
            (Toward(normal(7)), r"57 weights, and the other network.s have shape \(7,\)"),
            (Toward(where.start), "no path between them"),
        ):
            with pytest.raises(UsageError, match=said):
                objective.value(where, where.start, batch(where, 4, 5))

    def test_a_spec_holds_no_weights_and_refuses_a_tensor(self, restored):
        assert restored(Toward()) == Toward()
        assert hash(Toward()) == hash(Toward())
        assert Toward(normal(3)) != Toward(normal(3))
        with pytest.raises(UsageError, match="is a Tensor"):
            restored(Toward(normal(3)))
