"""Zeroth-order gradient estimates against exact gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fipray.errors import UsageError
from fipray.paths import (
    FirstOrder,
    Natural,
    Problem,
    Scheduled,
    Settings,
    ZerothOrder,
    trace,
)
from fipray.paths.calls import gradient
from fipray.paths.objectives.zeroth_order import orthonormal
from tests.margins import assert_below
from tests.problems import batch, linear, mlp, normal, problem


def half_square(network, weights):
    return float(weights.square().sum() / 2)


class TestZerothOrder:
    def test_as_many_directions_as_weights_give_the_exact_gradient_of_a_quadratic(self):
        where = problem(mlp(5, 6, 3))
        weights = normal(where.network.num_weights)
        found = gradient(ZerothOrder(half_square, num_samples=weights.numel()), where, weights, batch(where, 4, 5))
        torch.testing.assert_close(found, weights, rtol=1e-6, atol=1e-6)

    def test_fewer_directions_give_the_gradients_projection_on_their_span(self):
        where = problem(mlp(5, 6, 3))
        draw, weights = replace(batch(where, 4, 5), seed=7), normal(where.network.num_weights)
        found = gradient(ZerothOrder(half_square, num_samples=5), where, weights, draw)
        span = orthonormal(draw, weights.numel(), 5)
        torch.testing.assert_close(span.T @ span, torch.eye(5, dtype=torch.float64))
        torch.testing.assert_close(found, span @ (span.T @ weights))
        assert float(found @ weights) == pytest.approx(float(found @ found))  # what it predicts is what it gains

    def test_directions_depend_on_the_draw_alone(self):
        where = problem(mlp(5, 6, 3))
        inputs, box = batch(where, 4, 5), ZerothOrder(half_square, num_samples=2)
        first, again, new = (gradient(box, where, where.start, replace(inputs, seed=seed)) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, new)

    @pytest.mark.parametrize("stepper", [Natural(), FirstOrder(beta=10.0)])
    def test_steppers_lower_the_objective(self, stepper):
        where = problem(linear(5, 3))
        network, box = where.network, ZerothOrder(half_square, num_samples=15)
        inputs = torch.zeros(4, 5, dtype=torch.float64)
        path = trace(
            Problem(network, anchors=inputs, held_out=inputs),
            box,
            Settings(stepper=stepper, radius=Scheduled(0.1, 0.1), num_steps=5),
        )
        values = [point.objective_value for point in path.points]
        assert values == sorted(values, reverse=True)
        assert_below(values[-1] / values[0], 0.8)

    def test_a_named_function_is_written_as_a_spec(self, restored):
        box = ZerothOrder("math:hypot", num_samples=4)
        assert restored(box) == box
        with pytest.raises(UsageError, match="a function"):
            restored(ZerothOrder(half_square))

    def test_a_named_function_is_called_with_the_network_and_the_weights(self):
        where = problem(mlp(5, 6, 3))
        named = ZerothOrder("tests.problems:num_weights_that_are_positive")
        value = named.value(where, where.start, batch(where, 4, 5))
        assert float(value) == int((where.start > 0).sum())

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"function": "half_square"}, "given as module:function"),
            ({"function": "no.such.module:latency"}, "cannot be imported"),
            ({"function": "math:no_such_function"}, "has no function 'no_such_function'"),
            ({"function": "math:pi"}, "names a float"),
            ({"function": 3}, "function is 3"),
            ({"function": half_square, "num_samples": 0}, "num_samples=0"),
            ({"function": half_square, "spread": 0.0}, "above 0"),
        ],
    )
    def test_settings_out_of_range_are_refused(self, wrong, said):
        with pytest.raises(UsageError, match=said):
            ZerothOrder(**wrong)

    def test_a_result_that_is_no_number_is_refused(self):
        where = problem(mlp(5, 6, 3))
        with pytest.raises(UsageError, match="returned a NoneType"):
            ZerothOrder(lambda network, weights: None).value(where, where.start, batch(where, 4, 5))
        with pytest.raises(UsageError, match="returned a Tensor"):
            ZerothOrder(lambda network, weights: weights).value(where, where.start, batch(where, 4, 5))

    def test_an_error_of_the_function_itself_is_not_hidden(self):
        where = problem(mlp(5, 6, 3))
        with pytest.raises(ValueError, match="its own"):
            ZerothOrder(fails).value(where, where.start, batch(where, 4, 5))


def fails(network, weights):
    raise ValueError("its own")
