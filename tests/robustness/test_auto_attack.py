"""AutoAttack against the library called directly, and properties that the library does not guarantee."""

from __future__ import annotations

import logging
import math
import sys

import pytest
import torch

from fipray.errors import UsageError
from fipray.robustness import AutoAttack, Ensemble, OnLogits, ThreatModel, evaluate
from fipray.robustness.margin import correct
from tests.margins import assert_above, assert_below
from tests.problems import generator
from tests.robustness.classifiers import L2, LINF, Linear, Tanh, contested, predictions

PARTS = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
SMALL = {"num_steps": 3, "num_queries": 10}


@pytest.fixture
def library():
    return pytest.importorskip("pyautoattack")


def problem(*shape: int, dtype: torch.dtype = torch.float32, num_classes: int = 4, num_examples: int = 30):
    shape = shape or (1, 5, 5)
    classifier = Tanh.drawn(math.prod(shape), num_classes, dtype=dtype)
    inputs = contested(classifier, num_examples, *shape, dtype=dtype)
    return classifier, inputs, predictions(classifier, inputs)


def seed_of(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (), generator=generator))


@pytest.mark.parametrize("threat_model", [LINF, L2])
def test_auto_attack_finds_what_the_library_finds(library, threat_model):
    classifier, inputs, labels = problem()
    directly = library.AutoAttack(
        classifier,
        attacks=list(AutoAttack().attacks),
        version="custom",
        norm={"linf": "Linf", "l2": "L2"}[threat_model.norm],
        eps=threat_model.epsilon,
        seed=seed_of(generator(3)),
    )
    directly.apgd.n_restarts = directly.fab.n_restarts = 1
    directly.apgd_targeted.n_target_classes = directly.fab.n_target_classes = 3
    directly.square.n_queries = 20
    for part in (directly.apgd, directly.apgd_targeted, directly.fab):
        part.n_iter = 6
    for part in (directly.apgd, directly.apgd_targeted):  # what its constructor makes of 6 steps
        part.n_iter_2, part.n_iter_min, part.size_decr = 1, 1, 1
    expected, _ = directly.run_standard_evaluation(inputs, labels)
    attack = AutoAttack(num_steps=6, num_queries=20)
    found = attack.perturb(classifier, inputs, labels, threat_model, generator(3))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    robust = evaluate(classifier, inputs, labels, threat_model, [attack], generator(3)).worst
    assert torch.equal(robust, correct(classifier(expected), labels))
    assert_above(robust.sum(), 0)
    assert_below(robust.sum(), len(labels))


@pytest.mark.parametrize("threat_model", [LINF, L2])
@pytest.mark.parametrize("attacks", [(part,) for part in PARTS], ids=PARTS)
def test_every_part_stays_within_the_threat_model(library, attacks, threat_model):
    classifier, inputs, labels = problem(dtype=torch.float64)
    made = AutoAttack(attacks, **SMALL).perturb(classifier, inputs, labels, threat_model, generator())
    assert (made.shape, made.dtype, made.requires_grad) == (inputs.shape, inputs.dtype, False)
    assert bool(threat_model.contains(made, inputs, atol=1e-14).all())
    assert_below(correct(classifier(made), labels).sum(), len(labels))


@pytest.mark.parametrize("threat_model", [LINF, L2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_auto_attack_keeps_the_dtype_of_the_inputs(library, dtype, threat_model):
    classifier, inputs, labels = problem(dtype=dtype)
    made = AutoAttack(PARTS, **SMALL).perturb(classifier, inputs, labels, threat_model, generator())
    assert made.dtype == dtype
    assert bool(threat_model.contains(made, inputs).all())
    assert_below(correct(classifier(made), labels).sum(), len(labels))


def test_auto_attack_is_exact_on_linear_classes(library):
    """In float64; the library works in float32."""
    classifier = Linear.drawn(25, 5)
    inputs = contested(classifier, 40, 1, 5, 5)
    labels = predictions(classifier, inputs)
    attack = AutoAttack(("apgd-ce", "apgd-t"), num_steps=25)
    result = evaluate(classifier, inputs, labels, LINF, [attack], generator())
    assert torch.equal(result.worst, classifier.withstands(inputs, labels, LINF))
    assert_above(result.worst.sum(), 0)
    assert_below(result.worst.sum(), len(labels))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_scale_of_bounds_and_epsilon_changes_no_result(library, norm):
    """Inputs stretched to [-2, 6], which the classifier undoes: exact in binary."""
    classifier, inputs, labels = problem(dtype=torch.float64)
    attack, narrow = AutoAttack(**SMALL), {"linf": LINF, "l2": L2}[norm]
    wide = ThreatModel(norm, 8 * narrow.epsilon, -2.0, 6.0)
    made = attack.perturb(classifier, inputs, labels, narrow, generator())
    stretched = attack.perturb(lambda x: classifier((x + 2) / 8), 8 * inputs - 2, labels, wide, generator())
    torch.testing.assert_close((stretched + 2) / 8, made, rtol=0, atol=1e-6)
    assert bool(wide.contains(stretched, 8 * inputs - 2, atol=1e-14).all())


@pytest.mark.parametrize("shape", [(25,), (5, 5), (7,), (2, 3, 2, 2)])
def test_inputs_need_not_be_images(library, shape):
    classifier, inputs, labels = problem(*shape)
    made = AutoAttack(**SMALL).perturb(classifier, inputs, labels, LINF, generator())
    assert made.shape == inputs.shape
    assert bool(LINF.contains(made, inputs).all())
    assert_below(correct(classifier(made), labels).sum(), len(labels))


def test_one_example_and_two_classes_are_enough(library):
    classifier, inputs, labels = problem(num_classes=2, num_examples=1)
    made = AutoAttack(("apgd-ce", "fab", "fab-t", "square"), **SMALL).perturb(
        classifier, inputs, labels, LINF, generator()
    )
    assert bool(LINF.contains(made, inputs).all())


def test_epsilon_of_zero_and_failed_attacks_return_the_exact_inputs(library):
    classifier, inputs, labels = problem(dtype=torch.float64)
    attack, wide = AutoAttack(("apgd-ce",), **SMALL), ThreatModel("linf", 0.0, -3.0, 3.0)
    assert torch.equal(attack.perturb(classifier, inputs, labels, wide, generator()), inputs)
    tiny = ThreatModel("linf", 1e-9, -3.0, 3.0)
    assert torch.equal(attack.perturb(classifier, inputs, labels, tiny, generator()), inputs)


def test_auto_attack_is_silent_and_restores_global_state_and_gradients(library, capfd):
    classifier, inputs, labels = problem()
    parts = [part.requires_grad_() for part in (classifier.first, classifier.second)]
    torch.manual_seed(5)
    state, trace, level = torch.get_rng_state(), sys.gettrace(), logging.getLogger("auto-attack").level
    first, second = (
        AutoAttack(PARTS, **SMALL).perturb(classifier, inputs, labels, LINF, generator(1)) for _ in range(2)
    )
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert (sys.gettrace(), logging.getLogger("auto-attack").level) == (trace, level)
    assert all(part.grad is None for part in parts)
    assert capfd.readouterr() == ("", "")


def test_auto_attack_takes_ensembles_and_gradients_of_their_logits(library):
    ensemble = Ensemble([Tanh.drawn(25, seed=seed, dtype=torch.float32) for seed in range(3)])
    inputs = contested(ensemble, 30, 1, 5, 5, dtype=torch.float32)
    attack = AutoAttack(("apgd-ce", "apgd-t"), num_steps=5)
    labels = predictions(ensemble, inputs)
    result = evaluate(ensemble, inputs, labels, LINF, [attack, OnLogits(attack)], generator())
    for robust in result.robust.values():
        assert_above(robust.sum(), 0)
        assert_below(robust.sum(), 30)


def test_name_tells_the_parts_and_their_effort_unless_it_is_the_standard():
    assert AutoAttack().name == "autoattack"
    assert AutoAttack(("apgd-ce", "apgd-t")).name == "apgd-ce-100+apgd-t-100"
    assert AutoAttack(("fab", "square"), 10, 20, 3).name == "fab-10+square-20x3"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: AutoAttack(("pgd",)), r"unknown attacks .*'pgd'.*apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square"),
        (lambda: AutoAttack(()), r"unknown attacks \(\): give a tuple of one or more"),
        (lambda: AutoAttack(num_steps=0), r"num_steps is 0: give at least 1"),
    ],
)
def test_unknown_parts_are_refused_with_a_list_of_the_known_ones(make, says):
    with pytest.raises(UsageError, match=says):
        make()


@pytest.mark.parametrize(
    ("attack", "num_classes", "threat_model", "says"),
    [
        (AutoAttack(), 3, LINF, r"apgd-t needs 4 classes.*has 3: choose others, such as apgd-ce, fab-t, square"),
        (AutoAttack(("apgd-dlr",)), 2, LINF, r"apgd-dlr needs 3 classes"),
        (AutoAttack(), 4, ThreatModel("linf", 0.1, 0.0, math.inf), r"bounds.*\[0, inf\]: give finite ones"),
        (AutoAttack(), 4, L2, r"square in l2 needs images of 5 pixels.*these are 3 x 3"),
    ],
)
def test_auto_attack_refuses_unsuitable_problems(attack, num_classes, threat_model, says):
    classifier, inputs, labels = problem(1, 3, 3, num_classes=num_classes)
    with pytest.raises(UsageError, match=says):
        attack.perturb(classifier, inputs, labels, threat_model, generator())


def test_missing_library_is_refused_with_its_installation(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    classifier, inputs, labels = problem()
    with pytest.raises(UsageError, match=r"pip install 'fipray\[attacks\]'"):
        AutoAttack().perturb(classifier, inputs, labels, LINF, generator())
