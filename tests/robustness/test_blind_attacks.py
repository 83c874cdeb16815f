"""Black-box attacks: noise, random search, transfer."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from fipray.errors import UsageError
from fipray.robustness import PGD, RandomNoise, RandomSearch, TransferAttack, evaluate, transfer_matrix
from fipray.robustness.margin import correct, margins
from tests.margins import assert_above, assert_below
from tests.problems import generator
from tests.robustness.classifiers import L2, LINF, Linear, Tanh, contested, images, predictions
from tests.robustness.contract import AttackContract, every_threat_model


class TestRandomNoise(AttackContract):
    attack = RandomNoise(6)


class TestRandomSearch(AttackContract):
    attack = RandomSearch(6)


class TestTransferAttack(AttackContract):
    attack = TransferAttack(
        {
            "near": lambda x: Tanh.drawn(seed=0)(x.double()),
            "one way": lambda x: x.flatten(1),
            "the other": lambda x: -x.flatten(1),  # from next to a boundary, one of the two leads across
        },
        PGD(3),
    )


def problem(seed: int = 0):
    classifier = Tanh.drawn(seed=seed)
    inputs = contested(classifier, 40, 9, seed=seed)
    return classifier, inputs, predictions(classifier, inputs)


@pytest.mark.parametrize("threat_model", [LINF, L2], ids=["linf", "l2"])
def test_noise_has_full_size_where_the_bounds_allow_it(threat_model):
    """To 1e-12."""
    inputs, labels = torch.full((20, 9), 0.5, dtype=torch.float64), torch.arange(20) % 4
    change = RandomNoise(1).perturb(Tanh.drawn(), inputs, labels, threat_model, generator()) - inputs
    if threat_model.norm == "linf":
        torch.testing.assert_close(change.abs(), torch.full_like(change, threat_model.epsilon), rtol=0, atol=1e-12)
    else:
        size = torch.full((20,), threat_model.epsilon, dtype=torch.float64)
        torch.testing.assert_close(change.norm(dim=1), size, rtol=0, atol=1e-12)


@every_threat_model
@pytest.mark.parametrize("attacks", [[RandomNoise(1), RandomNoise(5), RandomNoise(25)]], ids=["noise"])
def test_more_draws_are_never_worse_for_the_attacker(attacks, threat_model):
    classifier, inputs, labels = problem()
    found = []
    for attack in attacks:
        outputs = classifier(attack.perturb(classifier, inputs, labels, threat_model, generator()))
        found.append((~correct(outputs, labels), margins(outputs, labels)))
    for (fooled, lowest), (now_fooled, now_lowest) in pairwise(found):
        assert not (fooled & ~now_fooled).any()
        assert bool((now_lowest <= lowest + 1e-12)[fooled == now_fooled].all())


@pytest.mark.parametrize("threat_model", [LINF, L2], ids=["linf", "l2"])
def test_random_search_comes_close_to_the_closed_form_on_two_linear_classes(threat_model):
    """On average at least nine tenths of the way to the lowest margin in linf, and two thirds in l2."""
    classifier, inputs = Linear.drawn(9, 2), images(40, 9)
    labels = predictions(classifier, inputs)
    made = RandomSearch(200).perturb(classifier, inputs, labels, threat_model, generator())
    clean, found = (margins(classifier(of), labels) for of in (inputs, made))
    lowest = classifier.worst_margins(inputs, labels, 1 - labels, threat_model)
    assert bool((found >= lowest - 1e-12).all())
    fraction = float(((clean - found) / (clean - lowest)).mean())
    assert_above(fraction, 0.9 if threat_model.norm == "linf" else 0.66)


@every_threat_model
def test_transfer_attack_from_one_surrogate_is_the_transfer_matrix(threat_model):
    classifier, inputs, labels = problem()
    base = Tanh.drawn(seed=1)
    matrix = transfer_matrix(
        {"base": base}, {"target": classifier}, inputs, labels, threat_model, PGD(5), generator(3), batch_size=40
    )
    attack = TransferAttack({"base": base}, PGD(5))
    robust = evaluate(classifier, inputs, labels, threat_model, [attack], generator(3), batch_size=40).worst_accuracy
    assert robust == pytest.approx(float(matrix[0, 0]), abs=1e-12)


@every_threat_model
def test_transfer_attack_keeps_the_worst_of_several_surrogates(threat_model):
    """Equal to evaluating each surrogate's inputs separately, from the same starts."""
    classifier, inputs, labels = problem()
    surrogates = {str(seed): Tanh.drawn(seed=seed) for seed in (1, 2, 3)}
    shared, alone = generator(3), torch.ones(40, dtype=torch.bool)
    for surrogate in surrogates.values():
        made = PGD(5).perturb(surrogate, inputs, labels, threat_model, shared)
        alone &= predictions(classifier, made) == labels
    attack = TransferAttack(surrogates, PGD(5))
    assert torch.equal(evaluate(classifier, inputs, labels, threat_model, [attack], generator(3)).worst, alone)
    assert_above(alone.sum(), 0)
    assert_below(alone.sum(), 40)


def test_transfer_attack_on_the_surrogate_itself_is_white_box():
    classifier, inputs, labels = problem()
    attacks = [TransferAttack({"itself": classifier}, PGD(5)), PGD(5)]
    robust = [evaluate(classifier, inputs, labels, LINF, [attack], generator(3)).worst for attack in attacks]
    assert torch.equal(*robust)


def test_names_and_effort():
    assert RandomNoise(7).name == "noise-7"
    assert RandomSearch(7).name == "random-search-7"
    assert TransferAttack({"base": Tanh.drawn(), "other": Tanh.drawn()}, PGD()).name == "pgd-20x1-from-base+other"
    for make, says in (
        (lambda: RandomNoise(0), r"num_draws is 0: give at least 1"),
        (lambda: RandomSearch(0), r"num_queries is 0: give at least 1"),
        (lambda: TransferAttack({}, PGD()), r"no surrogates: give one classifier or more, by name"),
    ):
        with pytest.raises(UsageError, match=says):
            make()
