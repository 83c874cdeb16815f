"""Gradient diversity and sparsification against their definitions; contracts of other objectives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from fipray.errors import UsageError
from fipray.geometry import Euclidean, FisherRao
from fipray.networks import Network
from fipray.paths import GradientDiversity, RandomWalk, Sparsify, Toward, WeightedSum, ZerothOrder
from fipray.paths.objectives.gradient_diversity import input_gradients
from fipray.testing import ObjectiveContract, RestrictedObjectiveContract
from tests.margins import assert_above
from tests.problems import batch, generator, linear, mlp, normal, problem


class TestGradientDiversity(ObjectiveContract):
    objective = GradientDiversity()


class TestSparsify(RestrictedObjectiveContract):
    objective = Sparsify(0.4)


class TestToward(ObjectiveContract):
    objective = Toward(normal(6 * 9 + 9 + 9 * 4 + 4, seed=9))


class TestRandomWalk(ObjectiveContract):
    objective = RandomWalk()


class TestWeightedSum(ObjectiveContract):
    objective = WeightedSum(((1.0, GradientDiversity()), (-0.3, Toward(normal(6 * 9 + 9 + 9 * 4 + 4, seed=9)))))


class TestZerothOrder(ObjectiveContract):
    objective = ZerothOrder(lambda network, weights: float(weights.square().sum()), num_samples=1000)


def test_equal_generators_draw_equal_batches():
    everything = batch(problem(mlp(5, 3)), 50, 5)
    first, again = (everything.draw(10, generator(3)) for _ in range(2))
    assert torch.equal(first.inputs, again.inputs)
    assert first.seed == again.seed


class TestSparsity:
    @pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.7])
    def test_the_end_has_exactly_the_given_sparsity(self, sparsity):
        where = problem(mlp(6, 9, 4))
        ended = Sparsify(sparsity).restrict(where, where.start, 1.0, batch(where, 8, 6))
        assert int((ended == 0).sum()) == round(sparsity * where.network.num_weights)

    def test_the_smallest_weights_are_zeroed_and_the_others_unchanged(self):
        where = problem(linear(5, 4))
        ended = Sparsify(0.5).restrict(where, where.start, 1.0, batch(where, 8, 5))
        kept = ended != 0
        assert torch.equal(ended[kept], where.start[kept])
        assert where.start[~kept].abs().max() < where.start[kept].abs().min()

    def test_biases_are_never_zeroed_and_more_zeros_than_layer_weights_are_refused(self):
        where = problem(mlp(6, 9, 4))
        biases = 9 + 4
        most = 1 - biases / where.network.num_weights
        ended = Sparsify(most).restrict(where, where.start, 1.0, batch(where, 8, 6))
        assert bool((ended[54:63] != 0).all())
        with pytest.raises(UsageError, match="only 90 of the 103"):
            Sparsify(0.95).restrict(where, where.start, 1.0, batch(where, 8, 6))

    def test_sparsity_rises_along_the_schedule_until_the_end_of_the_ramp(self):
        objective = Sparsify(0.8, ramp=0.5, num_stages=10)
        levels = [objective.sparsity_after(step / 100) for step in range(101)]
        assert levels == sorted(levels)
        assert levels[0] == 0
        assert levels[50:] == [0.8] * 51
        assert objective.sparsity_after(0.25) == pytest.approx(0.8 * (1 - 0.5**3))

    def test_without_a_ramp_only_the_end_is_restricted(self):
        objective = Sparsify(0.8, ramp=None)
        assert [objective.sparsity_after(p) for p in (0.0, 0.99, 1.0)] == [0, 0, 0.8]

    def test_the_value_is_half_the_squared_norm_of_the_weights_to_be_zeroed(self):
        where = problem(linear(2, 2))
        weights = torch.tensor([3.0, -1.0, 0.5, 2.0], dtype=torch.float64)
        assert float(Sparsify(0.5).value(where, weights, batch(where, 3, 2))) == pytest.approx((1 + 0.25) / 2)

    @pytest.mark.parametrize("wrong", [{"sparsity": 1.5}, {"sparsity": -0.1}, {"sparsity": 0.5, "ramp": 0.0}])
    def test_settings_out_of_range_are_refused(self, wrong):
        with pytest.raises(UsageError):
            Sparsify(**wrong)


class TestInputGradients:
    def test_a_linear_networks_margin_gradient_between_two_classes_is_the_difference_of_rows(self):
        network = linear(5, 2)
        rows = network.weights.view(2, 5)
        found = input_gradients(network, network.weights, normal(3, 5), torch.tensor([0, 1, 0]))
        difference = rows[0] - rows[1]
        torch.testing.assert_close(found, torch.stack([difference, -difference, difference]))

    def test_the_value_is_one_at_the_start_and_minus_one_where_gradients_oppose(self):
        where = problem(linear(5, 2), FisherRao())
        inputs = batch(where, 4, 5)
        assert float(GradientDiversity().value(where, where.start, inputs)) == pytest.approx(1)
        assert float(GradientDiversity().value(where, -where.start, inputs)) == pytest.approx(-1)

    def test_others_count_as_much_as_the_start(self):
        where = problem(linear(5, 2))
        inputs = batch(where, 4, 5)
        with_opposite = replace(where, others=(-where.start,))
        assert float(GradientDiversity().value(with_opposite, where.start, inputs)) == pytest.approx(0, abs=1e-12)

    def test_gradients_do_not_vanish_for_a_network_whose_probabilities_round_to_one(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = nn.Linear(5, 3)
        network = Network.of(module)
        sure = 1e4 * network.weights
        inputs = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
        labels = network(sure, inputs).argmax(1)
        gradients = input_gradients(network, sure, inputs, labels)
        assert_above(gradients.norm(dim=1).min().log10(), 0)


def test_labels_are_the_base_networks_predictions():
    where = problem(mlp(5, 3))
    inputs = normal(20, 5)
    made = where.batch(inputs)
    assert torch.equal(made.labels, where.network(where.start, inputs).argmax(1))
    assert torch.equal(problem(where.network, Euclidean()).batch(inputs).labels, made.labels)
