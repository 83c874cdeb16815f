"""Several heads: each with its own geometry."""

from __future__ import annotations

import pytest
import torch

from fipray import UsageError
from fipray.geometry import Euclidean, FisherRao, Heads, Metric, functional_distance
from tests.problems import mlp, normal

HEADS = Heads((FisherRao(), Euclidean(2.0)), sizes=(3, 2))


def test_each_head_is_embedded_by_its_own_geometry_and_the_squares_of_their_distances_add_up():
    one, other = normal(6, 5, seed=1), normal(6, 5, seed=2)
    distances = [
        functional_distance(geometry.embed(one[:, part]), geometry.embed(other[:, part]))
        for geometry, part in ((FisherRao(), slice(0, 3)), (Euclidean(2.0), slice(3, 5)))
    ]
    found = functional_distance(HEADS.embed(one), HEADS.embed(other))
    torch.testing.assert_close(found.square(), distances[0].square() + distances[1].square(), rtol=1e-12, atol=0)


def test_the_metric_of_two_heads_is_the_sum_of_the_heads_metrics():
    network, inputs, direction = mlp(4, 6, 5), normal(7, 4), normal(4 * 6 + 6 + 6 * 5 + 5, seed=3)

    class Part:
        def __init__(self, geometry, part):
            self.geometry, self.part = geometry, part

        def embed(self, outputs):
            return self.geometry.embed(outputs[:, self.part])

    parts = Part(FisherRao(), slice(0, 3)), Part(Euclidean(2.0), slice(3, 5))
    expected = sum(Metric(network, network.weights, inputs, part) @ direction for part in parts)
    torch.testing.assert_close(Metric(network, network.weights, inputs, HEADS) @ direction, expected)


def test_heads_that_do_not_add_up_are_refused():
    with pytest.raises(UsageError, match="1 geometries and 2 sizes"):
        Heads((FisherRao(),), sizes=(3, 2))
    with pytest.raises(UsageError, match="at least one output"):
        Heads((FisherRao(), Euclidean()), sizes=(3, 0))
    with pytest.raises(UsageError, match="add up to 5, and there are 6"):
        HEADS.embed(torch.zeros(2, 6))
