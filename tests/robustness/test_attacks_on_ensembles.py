"""Attacks on ensembles along other gradients than the average's."""

from __future__ import annotations

import math

import pytest
import torch

from fipray.errors import UsageError
from fipray.robustness import PGD, Ensemble, OnLogits, ReweighedPGD, StackedEnsemble, TargetedPGD, evaluate
from fipray.robustness.attacks.on_ensembles import _guided, member_weights
from fipray.robustness.margin import margin_gradient
from tests.margins import assert_above, assert_below
from tests.problems import generator, mlp, normal
from tests.robustness.classifiers import LINF, Linear, Tanh, contested, images, predictions
from tests.robustness.contract import every_threat_model


def members(count: int) -> list[Tanh]:
    return [Tanh.drawn(seed=seed) for seed in range(count)]


def problem(ensemble):
    inputs = contested(ensemble, 40, 9)
    return inputs, predictions(ensemble, inputs)


def perturbed(attack, classifier, inputs, labels, threat_model=LINF):
    return attack.perturb(classifier, inputs, labels, threat_model, generator())


@every_threat_model
@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_guided_attacks_on_equal_members_are_the_attack_on_the_member(average, threat_model):
    """To 1e-9: the gradients have one direction."""
    ensemble = Ensemble([Tanh.drawn()] * 3, average)
    inputs, labels = problem(ensemble)
    expected = perturbed(PGD(8), Tanh.drawn(), inputs, labels, threat_model)
    for attack in (ReweighedPGD(8), OnLogits(PGD(8))):
        made = perturbed(attack, ensemble, inputs, labels, threat_model)
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)


@every_threat_model
@pytest.mark.parametrize("until_fooled", [False, True])
def test_guided_attacks_on_other_classifiers_are_the_attack_itself(until_fooled, threat_model):
    inputs, labels = problem(Tanh.drawn())
    expected, *found = (
        attack.perturb(Tanh.drawn(), inputs, labels, threat_model, generator(), until_fooled=until_fooled)
        for attack in (PGD(5), ReweighedPGD(5), OnLogits(PGD(5)))
    )
    assert all(torch.equal(made, expected) for made in found)


@every_threat_model
def test_gradients_of_logits_change_nothing_where_logits_are_averaged(threat_model):
    ensemble = Ensemble(members(3), "logits")
    inputs, labels = problem(ensemble)
    for attack in (PGD(5), TargetedPGD(5, 2)):
        made = [perturbed(each, ensemble, inputs, labels, threat_model) for each in (attack, OnLogits(attack))]
        torch.testing.assert_close(made[0], made[1], rtol=0, atol=1e-12)


@every_threat_model
@pytest.mark.parametrize("attack", [ReweighedPGD(6), OnLogits(TargetedPGD(4, 2))], ids=lambda attack: attack.name)
def test_guided_inputs_are_allowed_and_the_ensemble_judges_them(attack, threat_model):
    ensemble = Ensemble(members(3))
    inputs, labels = problem(ensemble)
    made = perturbed(attack, ensemble, inputs, labels, threat_model)
    assert bool(threat_model.contains(made, inputs, atol=1e-14).all())
    stopped = attack.perturb(ensemble, inputs, labels, threat_model, generator(), until_fooled=True)
    assert torch.equal(predictions(ensemble, stopped) == labels, predictions(ensemble, made) == labels)
    robust = evaluate(ensemble, inputs, labels, threat_model, [attack], generator()).worst
    assert torch.equal(robust, predictions(ensemble, made) == labels)
    assert_above(robust.sum(), 0)
    assert_below(robust.sum(), len(labels))


def test_stacked_ensemble_is_attacked_as_the_ensemble_of_its_members():
    network = mlp(9, 7, 4)
    weights = network.weights + normal(3, network.num_weights)
    one_by_one = Ensemble([lambda inputs, of=of: network(of, inputs) for of in weights])
    inputs, labels = problem(one_by_one)
    for attack in (ReweighedPGD(5), OnLogits(PGD(5))):
        made = [perturbed(attack, of, inputs, labels) for of in (one_by_one, StackedEnsemble(network, weights))]
        torch.testing.assert_close(made[0], made[1], rtol=0, atol=1e-9)


def test_member_weights_are_the_derivatives_of_the_log_odds_of_the_two_likeliest_classes():
    """To 1e-12, by autograd; logits less than 10 apart."""
    outputs = normal(3, 20, 5).requires_grad_()
    mean = outputs.softmax(2).mean(0)
    likeliest, rivals = mean.topk(2, dim=1).indices.unbind(1)
    rows = torch.arange(20)
    odds = mean.log()[rows, rivals] - mean.log()[rows, likeliest]
    (slope,) = torch.autograd.grad(odds.sum(), outputs)
    found = member_weights(outputs.detach())
    torch.testing.assert_close(found, 3 * slope[:, rows, rivals], rtol=0, atol=1e-12)


def test_member_weights_of_a_weighted_and_tempered_ensemble_are_its_derivatives():
    """In the tempered logits, to 1e-12, by autograd."""
    fractions = (0.2, 0.5, 0.3)
    outputs = normal(3, 20, 5).requires_grad_()
    mean = (torch.tensor(fractions, dtype=torch.float64)[:, None, None] * outputs.softmax(2)).sum(0)
    likeliest, rivals = mean.topk(2, dim=1).indices.unbind(1)
    rows = torch.arange(20)
    odds = mean.log()[rows, rivals] - mean.log()[rows, likeliest]
    (slope,) = torch.autograd.grad(odds.sum(), outputs)
    found = member_weights(outputs.detach(), fractions=fractions)
    torch.testing.assert_close(found, 3 * slope[:, rows, rivals], rtol=0, atol=1e-12)


def test_guided_attack_on_a_member_of_almost_all_weight_is_the_attack_on_it_at_its_temperature():
    """To 1e-9, also of the outputs that decide."""
    first, second = members(2)
    ensemble = Ensemble([first, second], weights=(1e-14, 1.0), temperatures=(1.0, 0.5))
    inputs, labels = problem(second)
    expected = perturbed(PGD(6), lambda inputs: 2 * second(inputs), inputs, labels)
    for attack in (OnLogits(PGD(6)), ReweighedPGD(6)):
        torch.testing.assert_close(perturbed(attack, ensemble, inputs, labels), expected, rtol=0, atol=1e-9)


def test_softness_of_zero_weighs_all_members_alike():
    weights = member_weights(normal(3, 20, 5), softness=0.0)
    torch.testing.assert_close(weights, weights[:1].expand(3, -1), rtol=0, atol=1e-12)


def test_member_weights_of_saturated_members_are_those_at_a_gap_of_ten():
    outputs = 30 * normal(3, 20, 5)
    gap = (outputs.topk(2, dim=2).values * torch.tensor([1.0, -1.0])).sum(2).amax(0)
    scaled = outputs / (gap / 10).clamp_min(1)[:, None]
    likeliest = outputs.log_softmax(2).logsumexp(0).topk(2, dim=1).indices
    same = (likeliest == scaled.log_softmax(2).logsumexp(0).topk(2, dim=1).indices).all(1)
    assert_above(same.sum(), 5)
    torch.testing.assert_close(member_weights(outputs)[:, same], member_weights(scaled)[:, same], rtol=0, atol=1e-12)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_reweighed_gradient_on_two_linear_classes_is_that_of_members_not_outvoted(average):
    """To 1e-12: `sum_m w_m (row of the label - row of the other) / sum_m w_m` over members that side with the ensemble;
    and the outputs are exactly the ensemble's."""
    drawn = [Linear.drawn(9, 2, seed) for seed in range(3)]
    ensemble, inputs = Ensemble(drawn, average), images(40, 9)
    labels = predictions(ensemble, inputs)
    outputs, _, gradient = margin_gradient(_guided(ensemble, ReweighedPGD()._reweighed), inputs, labels)
    assert torch.equal(outputs, ensemble(inputs))
    weights = member_weights(ensemble.member_outputs(inputs))
    weights = weights * torch.stack([predictions(member, inputs) == labels for member in drawn])
    assert bool((weights == 0).any())
    slopes = torch.stack([member.weight[labels] - member.weight[1 - labels] for member in drawn])
    expected = (weights[..., None] * slopes).sum(0) / weights.sum(0)[:, None]
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


def test_names_and_effort():
    assert ReweighedPGD(50, 2).name == "reweighed-pgd-50x2"
    assert OnLogits(TargetedPGD(5, 2)).name == "targeted-pgd-5x2-on-logits"
    with pytest.raises(UsageError, match=r"num_steps is 0: give at least 1"):
        ReweighedPGD(0)
    for softness in (-1.0, math.inf):
        with pytest.raises(UsageError, match=r"softness is .*: give a finite number of at least 0"):
            ReweighedPGD(softness=softness)
