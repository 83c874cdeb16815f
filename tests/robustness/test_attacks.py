"""White-box attacks: contract, closed forms on linear classifiers in float64, effect of more effort."""

from __future__ import annotations

import math

import pytest
import torch

from fipray.errors import UsageError
from fipray.robustness import FGSM, PGD, TargetedPGD, ThreatModel, evaluate
from fipray.robustness.attacks.search import Search
from fipray.robustness.margin import correct, margins
from tests.margins import assert_above, assert_below
from tests.problems import generator
from tests.robustness.classifiers import FREE_L2, FREE_LINF, L2, LINF, Linear, Tanh, contested, images, predictions
from tests.robustness.contract import AttackContract, every_seed, every_threat_model

WIDE_LINF, WIDE_L2 = ThreatModel("linf", 0.2), ThreatModel("l2", 0.4)  # most examples meet the bounds
EXACT = [LINF, L2, FREE_LINF, FREE_L2, WIDE_LINF, WIDE_L2]


class TestFGSM(AttackContract):
    attack = FGSM()


class TestPGD(AttackContract):
    attack = PGD(num_steps=5)


class TestPGDWithRestarts(AttackContract):
    attack = PGD(num_steps=3, num_restarts=2, step_fraction=0.5)


class TestTargetedPGD(AttackContract):
    attack = TargetedPGD(num_steps=4, num_targets=9)  # of 3 that there are


def two_classes(seed: int):
    classifier = Linear.drawn(12, 2, seed)
    inputs = contested(classifier, 60, 3, 4, seed=seed)
    return classifier, inputs, predictions(classifier, inputs)


@every_seed
@pytest.mark.parametrize("threat_model", EXACT)
@pytest.mark.parametrize("attack", [PGD(25), TargetedPGD(25)], ids=lambda attack: attack.name)
def test_pgd_on_two_linear_classes_reaches_the_closed_form(attack, threat_model, seed):
    """Margins to 1e-9, and the robust examples exactly."""
    classifier, inputs, labels = two_classes(seed)
    made = attack.perturb(classifier, inputs, labels, threat_model, generator(seed))
    expected = classifier.worst_margins(inputs, labels, 1 - labels, threat_model)
    torch.testing.assert_close(margins(classifier(made), labels), expected, rtol=0, atol=1e-9)
    result = evaluate(classifier, inputs, labels, threat_model, [attack], generator(seed))
    assert torch.equal(result.worst, classifier.withstands(inputs, labels, threat_model))
    assert_above(result.worst.sum(), 0)
    assert_below(result.worst.sum(), len(labels))


@every_seed
@pytest.mark.parametrize("threat_model", [LINF, FREE_LINF, WIDE_LINF, FREE_L2])
def test_fgsm_on_two_linear_classes_is_the_closed_form(threat_model, seed):
    """To 1e-12; in l2 only without bounds, where one step is all that it takes."""
    classifier, inputs, labels = two_classes(seed)
    made = FGSM().perturb(classifier, inputs, labels, threat_model, generator(seed))
    expected = classifier.worst_margins(inputs, labels, 1 - labels, threat_model)
    torch.testing.assert_close(margins(classifier(made), labels), expected, rtol=0, atol=1e-12)


@every_seed
@pytest.mark.parametrize("threat_model", [L2, WIDE_L2])
def test_fgsm_within_bounds_is_never_below_the_closed_form(threat_model, seed):
    """To 1e-12. A step that the bounds cut short leaves some of epsilon unused."""
    classifier, inputs, labels = two_classes(seed)
    made = FGSM().perturb(classifier, inputs, labels, threat_model, generator(seed))
    expected = classifier.worst_margins(inputs, labels, 1 - labels, threat_model)
    assert bool((margins(classifier(made), labels) >= expected - 1e-12).all())


@every_seed
@pytest.mark.parametrize("threat_model", EXACT)
def test_targeted_pgd_with_all_targets_is_exact_on_linear_classes(threat_model, seed):
    classifier = Linear.drawn(12, 5, seed)
    inputs = contested(classifier, 80, 12, seed=seed)
    labels = predictions(classifier, inputs)
    result = evaluate(classifier, inputs, labels, threat_model, [TargetedPGD(25, 4)], generator(seed))
    assert torch.equal(result.worst, classifier.withstands(inputs, labels, threat_model))
    assert_above(result.worst.sum(), 0)
    assert_below(result.worst.sum(), len(labels))


def test_targeted_pgd_finds_the_rival_that_an_untargeted_attack_misses():
    """One example between a near rival whose rows are short and a far one whose rows are long: only the second wins."""
    classifier = Linear(
        torch.tensor([[0.0, 0.0], [0.0, 0.01], [4.0, 0.0]]).double(), torch.tensor([0.0, -0.3, -2.3]).double()
    )
    inputs, labels = torch.full((1, 2), 0.5, dtype=torch.float64), torch.tensor([0])
    assert classifier.withstands(inputs, labels, LINF).tolist() == [False]
    result = evaluate(classifier, inputs, labels, LINF, [TargetedPGD(1, 2)], generator())
    assert result.worst.tolist() == [False]


def settled(attack, classifier, inputs, labels, threat_model, seed):
    """Fooled examples [N] of an attack, and margins [N]."""
    outputs = classifier(attack.perturb(classifier, inputs, labels, threat_model, generator(seed)))
    return ~correct(outputs, labels), margins(outputs, labels)


@every_seed
@every_threat_model
@pytest.mark.parametrize(
    "attacks",
    [
        [PGD(steps) for steps in (1, 2, 4, 8, 16)],
        [PGD(3, restarts) for restarts in (1, 2, 3, 5)],
        [TargetedPGD(3, targets) for targets in (1, 2, 3)],
    ],
    ids=["steps", "restarts", "targets"],
)
def test_more_effort_is_never_worse_for_the_attacker(attacks, threat_model, seed):
    """Example by example: what was fooled stays fooled, and margins of others only fall; to 1e-12."""
    classifier, inputs = Tanh.drawn(num_classes=4, seed=seed), images(40, 9, seed=seed)
    labels = predictions(classifier, inputs)
    labels[:5] = (labels[:5] + 1) % 4
    fooled, lowest = settled(attacks[0], classifier, inputs, labels, threat_model, seed)
    for attack in attacks[1:]:
        now_fooled, now_lowest = settled(attack, classifier, inputs, labels, threat_model, seed)
        assert not (fooled & ~now_fooled).any()
        assert bool((now_lowest <= lowest + 1e-12)[fooled == now_fooled].all())
        fooled, lowest = now_fooled, now_lowest


@every_seed
@pytest.mark.parametrize("attack", [FGSM(), PGD(10), TargetedPGD(10)], ids=lambda attack: attack.name)
@every_threat_model
def test_saturated_softmax_is_fooled_as_the_unscaled_one(threat_model, attack, seed):
    """Two classes with logits times 1,000 in float32, where the gradient of cross-entropy vanishes."""
    classifier = Tanh.drawn(num_classes=2, seed=seed, dtype=torch.float32)
    inputs = contested(classifier, 60, 9, seed=seed, dtype=torch.float32)
    labels = predictions(classifier, inputs)
    unscaled, saturated = (
        evaluate(of, inputs, labels, threat_model, [attack], generator(seed)).worst
        for of in (classifier, lambda inputs: 1000 * classifier(inputs))
    )
    assert torch.equal(unscaled, saturated)
    assert_above(unscaled.sum(), 0)
    assert_below(unscaled.sum(), 60)


@every_seed
@every_threat_model
def test_targeted_pgd_does_not_depend_on_the_scale_of_many_classes(threat_model, seed):
    classifier = Tanh.drawn(seed=seed, dtype=torch.float32)
    inputs = contested(classifier, 60, 9, seed=seed, dtype=torch.float32)
    labels = predictions(classifier, inputs)
    unscaled, saturated = (
        evaluate(of, inputs, labels, threat_model, [TargetedPGD(10)], generator(seed)).worst
        for of in (classifier, lambda inputs: 1000 * classifier(inputs))
    )
    assert torch.equal(unscaled, saturated)


def test_last_iterate_of_pgd_counts():
    """One step of 2 epsilon is the closed form on linear classes in linf, to 1e-12."""
    classifier, inputs, labels = two_classes(seed=0)
    made = PGD(1).perturb(classifier, inputs, labels, LINF, generator())
    expected = classifier.worst_margins(inputs, labels, 1 - labels, LINF)
    torch.testing.assert_close(margins(classifier(made), labels), expected, rtol=0, atol=1e-12)


@every_threat_model
def test_steps_shrink_until_they_find_a_narrow_valley(threat_model):
    """The margin is |x - 0.53|, and steps of 2 epsilon jump over it: found to 1e-6."""
    inputs, labels = torch.full((4, 1), 0.5, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    made = PGD(60).perturb(lambda x: torch.cat([(x - 0.53).abs(), 0 * x], 1), inputs, labels, threat_model, generator())
    torch.testing.assert_close(made, torch.full_like(inputs, 0.53), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("attack", "passes"),
    [(FGSM(), 1), (PGD(5), 6), (PGD(5, 3), 18), (TargetedPGD(5, 2), 13), (TargetedPGD(5, 9), 19)],
    ids=lambda value: getattr(value, "name", None),
)
def test_attack_costs_what_it_documents_and_less_until_fooled(attack, passes):
    """Passes an example: one a step and one at its end, of each restart or target, and one to rank the targets."""
    inputs, labels, judged = images(40, 9), predictions(Tanh.drawn(), images(40, 9)), []

    def classifier(inputs):
        judged.append(len(inputs))
        return Tanh.drawn()(inputs)

    attack.perturb(classifier, inputs, labels, LINF, generator())
    assert sum(judged) == passes * 40
    judged.clear()
    attack.perturb(classifier, inputs, labels, LINF, generator(), until_fooled=True)
    if attack != FGSM():
        assert_below(sum(judged), passes * 40)


def test_outputs_may_have_another_dtype_than_the_inputs():
    classifier, inputs = Tanh.drawn(dtype=torch.float32), images(20, 9, dtype=torch.float32)
    labels = predictions(classifier, inputs)
    made = [
        PGD(3).perturb(of, inputs, labels, LINF, generator())
        for of in (classifier, lambda inputs: classifier(inputs).double())
    ]
    assert made[1].dtype == torch.float32
    torch.testing.assert_close(*made, rtol=0, atol=1e-6)


def test_flat_classifier_leaves_attacks_at_allowed_inputs():
    inputs, labels = images(5, 3), torch.zeros(5, dtype=torch.int64)
    for attack in (FGSM(), PGD(3), TargetedPGD(3)):
        made = attack.perturb(lambda inputs: 0 * inputs, inputs, labels, LINF, generator())
        assert bool(LINF.contains(made, inputs).all())


def test_names_tell_attacks_and_their_strength():
    attacks = [FGSM(), PGD(), PGD(50, 5), TargetedPGD(), TargetedPGD(100, 4)]
    assert [attack.name for attack in attacks] == [
        "fgsm",
        "pgd-20x1",
        "pgd-50x5",
        "targeted-pgd-20x9",
        "targeted-pgd-100x4",
    ]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: PGD(0), r"num_steps is 0: give at least 1"),
        (lambda: PGD(5, -1), r"num_restarts is -1: give at least 1"),
        (lambda: PGD(step_fraction=0.0), r"step_fraction is 0.0: give a finite number above 0"),
        (lambda: PGD(step_fraction=math.nan), r"step_fraction is nan; expected a number"),
        (lambda: TargetedPGD(0), r"num_steps is 0: give at least 1"),
        (lambda: TargetedPGD(5, 0), r"num_targets is 0: give at least 1"),
        (lambda: TargetedPGD(step_fraction=math.inf), r"step_fraction is inf: give a finite number above 0"),
    ],
)
def test_attack_without_effort_is_refused(make, says):
    with pytest.raises(UsageError, match=says):
        make()


@pytest.mark.parametrize("attack", [PGD(5, num_restarts=2), TargetedPGD(8, num_targets=1)])
def test_of_all_inputs_that_are_tried_the_one_of_least_margin_against_all_classes_is_kept(attack):
    classifier, tried = Tanh.drawn(6, 4), []

    def watched(inputs):
        tried.append(inputs.detach())
        return classifier(inputs)

    inputs = contested(classifier, 40, 6)
    labels = predictions(classifier, inputs)
    search = Search(watched, inputs, labels, LINF, generator(2), until_fooled=False)
    attack._adversarial(search)
    # The clean inputs, by which targets are ranked, are no candidates.
    outputs = [classifier(one) for one in tried if not torch.equal(one, inputs)]
    lowest = torch.stack([margins(one, labels) for one in outputs]).amin(0)
    never_fooled = torch.stack([correct(one, labels) for one in outputs]).all(0)
    assert never_fooled.any()
    torch.testing.assert_close(search.margin[never_fooled], lowest[never_fooled])
