"""Adversarial and diversity objectives against exact answers."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import Tensor

from fipray.errors import UsageError
from fipray.geometry import Euclidean
from fipray.networks import Network
from fipray.paths import (
    AdversarialDistillation,
    Adversary,
    Batch,
    EnsembleAdversarialDistillation,
    GradientDiversity,
    InputGradientPenalty,
    OutputDiversity,
    Problem,
    WeightDiversity,
)
from fipray.paths.calls import gradient
from fipray.paths.objectives.adversary import divergence
from fipray.robustness import ThreatModel
from fipray.testing import ObjectiveContract
from tests.margins import assert_above
from tests.problems import generator, linear, mlp, normal, problem

BOUNDLESS = Adversary(ThreatModel("linf", 0.2, -torch.inf, torch.inf))


class TestAdversarialDistillation(ObjectiveContract):
    objective = AdversarialDistillation(BOUNDLESS)


class TestEnsembleAdversarialDistillation(ObjectiveContract):
    objective = EnsembleAdversarialDistillation(BOUNDLESS)


class TestInputGradientPenalty(ObjectiveContract):
    objective = InputGradientPenalty()


class TestOutputDiversity(ObjectiveContract):
    objective = OutputDiversity()


class TestWeightDiversity(ObjectiveContract):
    objective = WeightDiversity()


class TestNoisyGradientDiversity(ObjectiveContract):
    objective = GradientDiversity(noise=0.3)


def sure(size: int = 6, seed: int = 3) -> tuple[Problem, Batch]:
    """A linear network of two classes with a logit difference of at least 30 on every input, alternating in class.

    It is surer of every input than a `doubtful` network is anywhere in the threat model."""
    row = torch.tensor([10.0, -15.0, 10.0, -15.0, 10.0], dtype=torch.float64)
    where = problem(linear(5, 2).at(torch.cat([row, -row])))
    high = (row > 0) == (torch.arange(size) % 2 == 0)[:, None]
    return where, where.batch((torch.rand(size, 5, generator=generator(seed), dtype=torch.float64) + 3 * high) / 4)


def doubtful(where: Problem, seed: int) -> Tensor:
    return where.start / 10 + normal(where.network.num_weights, seed=seed)


def nearest_to_the_other_class(network: Network, weights: Tensor, made: Batch, threat_model: ThreatModel) -> Tensor:
    """The corner of the threat model in which a linear network of two classes is least sure of the start's labels."""
    rows = network.named(weights)["weight"]
    difference = torch.where(made.labels[:, None] == 0, rows[0] - rows[1], rows[1] - rows[0])
    return threat_model.project(made.inputs - threat_model.epsilon * difference.sign(), made.inputs)


class TestAdversary:
    threat_model = ThreatModel("linf", 0.15)

    def test_adversary_finds_the_worst_input_of_a_linear_network_in_linf(self):
        where, made = sure()
        weights = doubtful(where, seed=5)
        found = Adversary(self.threat_model).inputs(where, weights, made)
        torch.testing.assert_close(found, nearest_to_the_other_class(where.network, weights, made, self.threat_model))

    def test_adversary_finds_the_worst_input_of_a_linear_network_in_l2(self):
        where, made = sure()
        threat_model = ThreatModel("l2", 0.1, -10, 10)
        weights = doubtful(where, seed=5)
        rows = where.network.named(weights)["weight"]
        down = torch.where(made.labels[:, None] == 0, rows[1] - rows[0], rows[0] - rows[1])
        found = Adversary(threat_model, num_steps=5, step_fraction=100).inputs(where, weights, made)
        torch.testing.assert_close(found, made.inputs + 0.1 * down / down.norm(dim=1, keepdim=True))

    @pytest.mark.parametrize("norm", ["linf", "l2"])
    def test_adversarial_inputs_are_allowed_and_worse_than_their_starts(self, norm):
        """On average over 16 networks, as the logarithm of how many times worse."""
        threat_model, worse = ThreatModel(norm, 0.3), []
        for seed in range(16):
            where = problem(mlp(6, 9, 4, seed=seed))
            inputs = torch.rand(20, 6, generator=generator(seed), dtype=torch.float64)
            made = where.batch(inputs)
            weights = where.start + 0.2 * normal(where.network.num_weights, seed=seed)
            found = Adversary(threat_model).inputs(where, weights, made)
            assert bool(threat_model.contains(found, inputs).all())
            began = threat_model.starts(inputs, generator(made.seed))
            before, after = (
                divergence(where, where.network(weights, x), made.reference).mean() for x in (began, found)
            )
            worse.append((after / before).log())
        assert_above(torch.stack(worse).mean(), 0)

    def test_inputs_outside_the_bounds_and_settings_out_of_range_are_refused(self):
        where = problem(mlp(6, 9, 4))
        with pytest.raises(UsageError, match="anchors range over"):
            Adversary(self.threat_model).inputs(where, where.start, where.batch(normal(8, 6)))
        with pytest.raises(UsageError, match="num_steps=0"):
            Adversary(self.threat_model, num_steps=0)

    def test_adversarial_inputs_depend_on_the_seed_alone(self):
        where = problem(mlp(6, 9, 4))
        inputs = torch.rand(20, 6, generator=generator(), dtype=torch.float64)
        made = where.batch(inputs)
        first, again, other = (BOUNDLESS.inputs(where, where.start, replace(made, seed=seed)) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


class TestDivergence:
    def test_divergence_is_kullback_leibler_and_nearby_half_the_squared_distance(self):
        where = problem(mlp(5, 3))
        outputs = normal(7, 3)
        reference = where.geometry.embed(outputs)
        other = normal(7, 3, seed=1)
        p, q = outputs.softmax(1), other.softmax(1)
        torch.testing.assert_close(divergence(where, other, reference), (p * (p / q).log()).sum(1))
        near = outputs + 1e-4 * other
        squared = (where.geometry.embed(near) - reference).square().sum(1)
        torch.testing.assert_close(divergence(where, near, reference), squared / 2, rtol=1e-3, atol=0)

    def test_a_class_of_reference_probability_zero_contributes_nothing(self):
        where = problem(mlp(5, 3))
        reference = torch.tensor([[2.0, 0.0, 0.0]], dtype=torch.float64)
        assert float(divergence(where, torch.zeros(1, 3, dtype=torch.float64), reference)) == pytest.approx(
            float(torch.tensor(3.0).log())
        )

    def test_divergence_for_regression_is_half_the_squared_distance(self):
        where = problem(mlp(5, 3), Euclidean(scale=2.0))
        outputs, other = normal(4, 3), normal(4, 3, seed=1)
        torch.testing.assert_close(
            divergence(where, other, where.geometry.embed(outputs)), (outputs - other).square().sum(1) / 8
        )


class TestValues:
    threat_model = ThreatModel("linf", 0.15)

    def test_adversarial_distillation_is_taken_on_the_networks_own_worst_inputs(self):
        where, made = sure()
        weights = doubtful(where, seed=5)
        worst = nearest_to_the_other_class(where.network, weights, made, self.threat_model)
        expected = divergence(where, where.network(weights, worst), made.reference).mean()
        found = AdversarialDistillation(Adversary(self.threat_model)).value(where, weights, made)
        torch.testing.assert_close(found, expected)

    def test_ensemble_adversarial_distillation_deals_inputs_out_among_the_others(self):
        where, made = sure()
        made = replace(made, seed=1)
        others = tuple(where.start / 10 for _ in range(2))
        for other, pixel in zip(others, (0, 1), strict=True):  # each sees one pixel the other way round
            other.view(2, 5)[:, pixel] = other.view(2, 5)[:, pixel].flip(0)
        weights = where.start + normal(10, seed=7)
        worst = [nearest_to_the_other_class(where.network, other, made, self.threat_model) for other in others]
        own = nearest_to_the_other_class(where.network, weights, made, self.threat_model)
        assert all(bool((one != other).any(1).all()) for one, other in combinations([*worst, own], 2))
        dealt = torch.stack([worst[(n + made.seed) % 2][n] for n in range(len(made))])
        expected = divergence(where, where.network(weights, dealt), made.reference).mean()
        found = EnsembleAdversarialDistillation(Adversary(self.threat_model)).value(
            replace(where, others=others), weights, made
        )
        torch.testing.assert_close(found, expected)

    def test_ensemble_adversarial_distillation_without_others_attacks_the_base_network(self):
        where, made = sure()
        weights = where.start + normal(10, seed=7)
        alone, with_start = (
            EnsembleAdversarialDistillation(Adversary(self.threat_model)).value(one, weights, made)
            for one in (where, replace(where, others=(where.start,)))
        )
        assert torch.equal(alone, with_start)

    def test_input_gradient_penalty_of_a_linear_network_is_the_norm_of_the_difference_of_its_rows(self):
        where, made = sure()
        rows = where.network.named(where.start)["weight"]
        assert float(InputGradientPenalty().value(where, where.start, made)) == pytest.approx(
            float((rows[0] - rows[1]).norm())
        )

    def test_output_diversity_is_minus_the_mean_squared_distance_on_noisy_inputs(self):
        where = problem(mlp(5, 3))
        made = where.batch(normal(6, 5))
        other = where.start + 0.3 * normal(18, seed=2)
        weights = where.start + 0.2 * normal(18, seed=3)
        noisy = made.inputs + 0.7 * made.normal(6, 5)
        own, base, theirs = (where.geometry.embed(where.network(w, noisy)) for w in (weights, where.start, other))
        expected = -((own - base).square().sum(1).mean() + (own - theirs).square().sum(1).mean()) / 2
        found = OutputDiversity(0.7).value(replace(where, others=(other,)), weights, made)
        torch.testing.assert_close(found, expected)

    def test_output_diversity_has_value_zero_and_a_random_gradient_where_outputs_coincide(self):
        where = problem(mlp(5, 3))
        gradients = []
        for seed in (0, 0, 1):
            weights = where.start.clone().requires_grad_()
            value = OutputDiversity().value(where, weights, replace(where.batch(normal(6, 5)), seed=seed))
            assert float(value.detach()) == 0
            gradients.append(torch.autograd.grad(value, weights)[0])
        torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)
        assert float(gradients[0].norm()) > 0
        assert float((gradients[0] - gradients[2]).norm()) > 0

    def test_weight_diversity_is_minus_the_mean_distance_in_units_of_the_base_weights(self):
        where = problem(mlp(5, 3))
        made = where.batch(normal(6, 5))
        weights, other = where.start + normal(18, seed=2), where.start + normal(18, seed=3)
        length = where.start.norm()
        expected = -((weights - where.start).norm() + (weights - other).norm()) / 2 / length
        torch.testing.assert_close(WeightDiversity().value(replace(where, others=(other,)), weights, made), expected)

    def test_weight_diversity_at_another_network_has_a_random_gradient(self):
        where = problem(mlp(5, 3))
        made = where.batch(normal(6, 5))
        slope = gradient(WeightDiversity(), where, where.start, made)
        assert float(slope.norm()) == pytest.approx(1 / float(where.start.norm()))
        assert not torch.equal(slope, gradient(WeightDiversity(), where, where.start, replace(made, seed=2)))

    def test_gradient_diversity_adds_noise_to_every_other_input(self):
        where = problem(mlp(5, 6, 3))
        made = where.batch(normal(8, 5))
        weights = where.start + 0.3 * normal(where.network.num_weights, seed=2)
        mixed = made.inputs + 0.4 * made.normal(8, 5) * torch.tensor([1.0, 0.0] * 4)[:, None]
        expected = GradientDiversity().value(where, weights, replace(made, inputs=mixed))
        torch.testing.assert_close(GradientDiversity(noise=0.4).value(where, weights, made), expected)
