"""Weighted sums of objectives: values, gradients and restrictions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fipray.errors import UsageError
from fipray.paths import (
    GradientDiversity,
    RandomWalk,
    Situation,
    Sparsify,
    Toward,
    WeightedSum,
    ZerothOrder,
)
from fipray.paths.calls import gradient, restrict, tangent
from tests.paths.steppers.situations import Slope
from tests.problems import batch, mlp, normal, problem


def half_square(network, weights):
    return float(weights.square().sum() / 2)


class TestWeightedSum:
    def test_value_and_gradient_are_the_weighted_sums_of_the_parts(self):
        where = problem(mlp(5, 6, 3))
        draw, weights = replace(batch(where, 7, 5), seed=4), 1.1 * where.start
        parts = (
            (1.0, GradientDiversity()),
            (-0.5, Toward(0 * where.start)),
            (2.0, ZerothOrder(half_square, num_samples=3)),
        )
        whole = WeightedSum(parts)
        value = sum(c * part.value(where, weights, draw) for c, part in parts)
        slope = sum(c * gradient(part, where, weights, draw) for c, part in parts)
        torch.testing.assert_close(whole.value(where, weights, draw), value)
        torch.testing.assert_close(gradient(whole, where, weights, draw), slope)

    def test_weights_and_steps_are_the_same_tensors_where_no_part_restricts(self):
        where = problem(mlp(5, 6, 3))
        whole = WeightedSum(((1.0, GradientDiversity()), (1.0, RandomWalk())))
        step = normal(where.network.num_weights)
        assert restrict(whole, where, where.start, 1.0, batch(where, 8, 5)) is where.start
        assert tangent(whole, where, where.start)(step) is step

    def test_the_restriction_of_a_part_holds_for_the_sum(self):
        where = problem(mlp(5, 6, 3))
        whole = WeightedSum(((1.0, GradientDiversity()), (0.0, Sparsify(0.5))))
        ended = restrict(whole, where, where.start, 1.0, batch(where, 8, 5))
        assert torch.equal(ended, Sparsify(0.5).restrict(where, where.start, 1.0, batch(where, 8, 5)))
        assert restrict(whole, where, ended, 1.0, batch(where, 8, 5)) is ended
        step = tangent(whole, where, ended)(normal(where.network.num_weights))
        assert not step[ended == 0].any()

    def test_sums_within_sums_are_written_and_read_as_specs(self, restored):
        whole = WeightedSum(((1.0, GradientDiversity()), (0.1, WeightedSum(((2.0, Toward()), (-1.0, RandomWalk()))))))
        assert restored(whole) == whole
        assert hash(restored(whole)) == hash(whole)

    @pytest.mark.parametrize(
        "wrong",
        [
            (),
            1.0,
            ((1.0,),),
            ((float("nan"), GradientDiversity()),),
            ((float("inf"), GradientDiversity()),),
            ((1.0, 2),),
        ],
    )
    def test_parts_that_are_no_pairs_are_refused(self, wrong):
        with pytest.raises(UsageError, match=r"tuple of pairs|parts"):
            WeightedSum(wrong)


def test_a_sum_is_restricted_only_if_a_part_is():
    where = problem(mlp(5, 6, 3))
    free, sparse = (
        WeightedSum(((1.0, GradientDiversity()),)),
        WeightedSum(((1.0, GradientDiversity()), (0.0, Sparsify(0.5)))),
    )
    situations = [Situation(where, part, where.start, batch(where, 4, 5), 1.0) for part in (free, sparse, Slope())]
    assert [situation.restricted for situation in situations] == [False, True, False]
