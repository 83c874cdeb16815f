"""Margins and their gradients; checks of examples and classifiers."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from fipray.errors import DataError, UsageError
from fipray.robustness import FGSM, PGD, TargetedPGD, evaluate, transfer_matrix
from fipray.robustness.margin import correct, margin_gradient, margins
from tests.margins import assert_above
from tests.problems import generator, normal
from tests.robustness.classifiers import L2, LINF, Linear, Tanh, images, predictions

EVERY_ATTACK = [FGSM(), PGD(3), TargetedPGD(3)]


def test_cross_entropy_is_a_falling_function_of_the_margin():
    """log(1 + exp(-margin)), to 1e-12."""
    outputs, labels = 5 * normal(30, 4), torch.arange(30) % 4
    expected = cross_entropy(outputs, labels, reduction="none")
    torch.testing.assert_close(torch.log1p(torch.exp(-margins(outputs, labels))), expected, rtol=1e-12, atol=1e-12)


def test_margin_over_one_rival_is_the_difference_of_two_outputs():
    outputs, labels = normal(10, 4), torch.arange(10) % 4
    rivals = (labels + 1) % 4
    rows = torch.arange(10)
    assert torch.equal(margins(outputs, labels, rivals), outputs[rows, labels] - outputs[rows, rivals])


def test_margin_gradient_of_two_linear_classes_is_the_difference_of_rows():
    classifier, inputs = Linear.drawn(6, 2), images(5, 2, 3)
    labels = torch.tensor([0, 1, 0, 1, 1])
    _, _, gradient = margin_gradient(classifier, inputs, labels)
    expected = classifier.weight[labels] - classifier.weight[1 - labels]
    torch.testing.assert_close(gradient, expected.view(5, 2, 3), rtol=0, atol=1e-14)


def test_margin_gradient_remains_where_that_of_cross_entropy_vanishes():
    classifier = Tanh.drawn(dtype=torch.float32)
    inputs = images(50, 9, dtype=torch.float32).requires_grad_()
    labels = predictions(classifier, inputs)
    saturated = lambda inputs: 1000 * classifier(inputs)  # noqa: E731
    (vanished,) = torch.autograd.grad(cross_entropy(saturated(inputs), labels, reduction="sum"), inputs)
    assert_above((vanished == 0).all(1).sum(), 40)
    _, _, gradient = margin_gradient(saturated, inputs, labels)
    assert_above(gradient.norm(dim=1).min(), 1)


def test_outputs_with_nan_are_wrong():
    outputs = torch.tensor([[0.0, 1.0], [0.0, math.nan], [math.nan, 1.0], [math.inf, 0.0]])
    assert correct(outputs, torch.tensor([1, 1, 1, 0])).tolist() == [True, False, False, True]


def good():
    return Linear.drawn(4, 3), images(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])


def with_value(value: float):
    inputs = images(6, 4)
    inputs[2, 1] = value
    return inputs


UNUSABLE = {
    "NaN": (with_value(math.nan), None, r"1 of 6 inputs hold NaN or infinity, the first at index 2: remove"),
    "infinity": (with_value(math.inf), None, r"1 of 6 inputs hold NaN or infinity, the first at index 2: remove"),
    "above": (with_value(1.5), None, r"range over \[.*, 1.5\] and the threat model allows \[0, 1\]: scale"),
    "below": (with_value(-0.5), None, r"range over \[-0.5, .*\] and the threat model allows \[0, 1\]: scale"),
    "integers": (
        torch.zeros(6, 4, dtype=torch.int64),
        None,
        r"the inputs are torch.int64 of shape \(6, 4\): give floats",
    ),
    "no axis": (torch.zeros(6), None, r"the inputs are torch.float32 of shape \(6,\): give floats of shape \[N, ...\]"),
    "no example": (torch.zeros(0, 4), None, r"of shape \(0, 4\): give floats of shape \[N, ...\], N at least 1"),
    "no pixel": (torch.zeros(6, 0), None, r"of shape \(6, 0\): give floats"),
    "float labels": (
        None,
        torch.zeros(6),
        r"the labels are torch.float32 of shape \(6,\) on cpu: give one int64 class",
    ),
    "few labels": (None, torch.zeros(5, dtype=torch.int64), r"of shape \(5,\) on cpu: .* for each of the 6 inputs"),
    "two-column labels": (
        None,
        torch.zeros(6, 1, dtype=torch.int64),
        r"of shape \(6, 1\) on cpu: give one int64 class",
    ),
    "labels elsewhere": (
        None,
        torch.zeros(6, dtype=torch.int64, device="meta"),
        r"meta int64 tensor \[6\]; expected a Tensor",
    ),
    "label too large": (None, torch.tensor([0, 1, 2, 0, 1, 3]), r"range over 0..3, and .* classes are 0..2: give"),
    "label below zero": (None, torch.tensor([0, 1, 2, 0, 1, -1]), r"range over -1..2, and .* classes are 0..2: give"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_examples_are_refused_by_every_attack_and_evaluation(case):
    classifier, inputs, labels = good()
    bad_inputs, bad_labels, says = UNUSABLE[case]
    inputs = inputs if bad_inputs is None else bad_inputs
    labels = labels if bad_labels is None else bad_labels
    for attack in EVERY_ATTACK:
        with pytest.raises(DataError, match=says):
            attack.perturb(classifier, inputs, labels, LINF, generator())
    with pytest.raises(DataError, match=says):
        evaluate(classifier, inputs, labels, LINF, [FGSM()], generator())
    with pytest.raises(DataError, match=says):
        transfer_matrix({"one": classifier}, {"one": classifier}, inputs, labels, LINF, FGSM(), generator())


@pytest.mark.parametrize("attack", EVERY_ATTACK, ids=lambda attack: attack.name)
def test_inputs_outside_the_bounds_by_rounding_are_accepted(attack):
    classifier, inputs, labels = good()
    inputs = inputs.float()
    inputs[0, 0], inputs[0, 1] = 1 + 2e-7, -2e-7
    single = Linear(classifier.weight.float(), classifier.bias.float())
    for threat_model in (LINF, L2):
        made = attack.perturb(single, inputs, labels, threat_model, generator())
        assert bool(threat_model.contains(made, inputs).all())


@pytest.mark.parametrize(
    ("classifier", "says"),
    [
        (lambda inputs: inputs[:, :1], r"float64 tensor \[6, 1\] for 6 inputs: .* two classes or more"),
        (lambda inputs: inputs[:, 0], r"float64 tensor \[6\] for 6 inputs: give one row an input"),
        (lambda inputs: inputs[:3], r"float64 tensor \[3, 4\] for 6 inputs: give one row an input"),
        (lambda inputs: inputs[:, None], r"float64 tensor \[6, 1, 4\] for 6 inputs: give one row an input"),
    ],
)
def test_classifiers_with_other_outputs_are_refused(classifier, says):
    _, inputs, labels = good()
    for attack in EVERY_ATTACK:
        with pytest.raises(DataError, match=says):
            attack.perturb(classifier, inputs, labels, LINF, generator())
    with pytest.raises(DataError, match=says):
        evaluate(classifier, inputs, labels, LINF, [FGSM()], generator())


@pytest.mark.parametrize("attack", EVERY_ATTACK, ids=lambda attack: attack.name)
def test_classifier_that_hides_its_gradient_is_refused(attack):
    """Also a classifier whose outputs require gradients in its weights alone."""
    classifier, inputs, labels = good()
    trainable = Linear(classifier.weight.clone().requires_grad_(), classifier.bias)
    for hidden in (
        lambda inputs: classifier(inputs).detach(),
        torch.no_grad()(classifier.__call__),
        lambda inputs: trainable(inputs.detach()),
    ):
        with pytest.raises(UsageError, match=r"carry no gradient back to its inputs, .* without detach\(\)"):
            attack.perturb(hidden, inputs, labels, LINF, generator())
