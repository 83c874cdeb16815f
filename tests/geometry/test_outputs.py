"""Output geometries: several heads, single logits, probabilities taken for logits."""

from __future__ import annotations

import math

import pytest
import torch

from fipray.errors import NetworkError, UsageError
from fipray.geometry import Euclidean, FisherRao, Heads, Metric, Warm, class_logits, functional_distance, num_classes
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


def test_metric_of_two_heads_is_the_sum_of_the_heads_metrics():
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


@pytest.mark.parametrize("shape", [(6, 1), (6, 1, 3, 4)])
def test_single_logit_is_a_classifier_of_two_classes(shape):
    """To 1e-12: s = 2 sqrt((sigmoid(-z), sigmoid(z))), which is that of the logits (0, z)."""
    z = 3 * normal(*shape)
    expected = 2 * torch.cat([torch.sigmoid(-z), torch.sigmoid(z)], 1).sqrt().flatten(1)
    torch.testing.assert_close(FisherRao().embed(z), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(FisherRao().embed(class_logits(z)), expected, rtol=1e-12, atol=1e-12)
    assert num_classes(z) == 2
    assert torch.equal(class_logits(z).argmax(1), (z[:, 0] > 0).long())


def test_metric_of_a_single_logit_is_its_fisher_information():
    """To 1e-10: J^T J = mean_n p (1 - p) x x^T for logistic regression."""
    network, inputs, direction = mlp(4, 1), normal(7, 4), normal(5, seed=3)
    p = torch.sigmoid(network(network.weights, inputs))
    ones = torch.cat([inputs, torch.ones(7, 1, dtype=torch.float64)], 1)
    expected = (p * (1 - p) * ones).T @ (ones @ direction) / 7
    found = Metric(network, network.weights, inputs, FisherRao()) @ direction
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("temperature", [2.0, math.inf])
def test_warm_classes_of_a_single_logit_are_those_of_two(temperature):
    z, geometry = normal(5, 1), Warm(temperature)
    torch.testing.assert_close(geometry.embed(z), geometry.embed(class_logits(z)), rtol=0, atol=0)


def test_log_probabilities_are_as_good_as_logits():
    z = normal(5, 4)
    torch.testing.assert_close(FisherRao().embed(z.log_softmax(1)), FisherRao().embed(z), rtol=1e-12, atol=1e-12)
    FisherRao().check(z.log_softmax(1))


@pytest.mark.parametrize("geometry", [FisherRao(), Warm(2.0), Heads((FisherRao(), Euclidean()), (3, 1))])
def test_outputs_that_are_probabilities_already_are_refused(geometry):
    chances = torch.cat([normal(5, 3).softmax(1), normal(5, 1)], 1)
    with pytest.raises(NetworkError, match=r"they are probabilities.*log_softmax"):
        geometry.check(chances if isinstance(geometry, Heads) else chances[:, :3])


def test_logits_that_happen_to_be_positive_are_not_taken_for_probabilities():
    FisherRao().check(torch.cat([torch.rand(5, 3), 3 * torch.rand(5, 3)]))
