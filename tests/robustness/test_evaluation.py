"""Accuracy under attack and transfer, counted by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from fipray.errors import UsageError
from fipray.robustness import FGSM, PGD, TargetedPGD, ThreatModel, evaluate, transfer_matrix
from tests.margins import assert_below
from tests.problems import generator
from tests.robustness.classifiers import L2, LINF, Linear, Tanh, images, predictions


@dataclass(frozen=True)
class Artifact:
    """An attack with a given function of the inputs, which records its calls."""

    make: Callable[[Tensor, ThreatModel, torch.Generator], Tensor]
    name: str = "made"
    given: list[Tensor] = field(default_factory=list)
    made: list[Tensor] = field(default_factory=list)
    stopping: list[bool] = field(default_factory=list)

    def perturb(self, classifier, inputs, labels, threat_model, generator, *, until_fooled=False):
        self.given.append(inputs)
        self.stopping.append(until_fooled)
        self.made.append(self.make(inputs, threat_model, generator))
        return self.made[-1]


def left_alone() -> Artifact:
    return Artifact(lambda inputs, threat_model, generator: inputs)


def first_input(inputs: Tensor) -> Tensor:
    """Class 1 where the first input is above 0.5."""
    return torch.stack([0 * inputs[:, 0], inputs[:, 0] - 0.5], 1)


def last_input(inputs: Tensor) -> Tensor:
    """Class 1 where the last input is above 0.5."""
    return first_input(inputs.flip(1))


LINE = torch.tensor([[0.05], [0.45], [0.55], [0.9], [0.2]]).double()
LABELS = torch.tensor([0, 0, 1, 1, 1])  # the last is misclassified when clean


@pytest.mark.parametrize("attack", [FGSM(), PGD(5), TargetedPGD(5)], ids=lambda attack: attack.name)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("batch_size", [1, 2, 500])
def test_accuracies_on_a_line_are_those_counted_by_hand(attack, norm, batch_size):
    result = evaluate(first_input, LINE, LABELS, ThreatModel(norm, 0.1), [attack], generator(), batch_size=batch_size)
    assert result.clean.tolist() == [True, True, True, True, False]
    assert result.robust[attack.name].tolist() == [True, False, False, True, False]
    assert result.worst.tolist() == [True, False, False, True, False]
    assert result.clean_accuracy == 0.8
    assert result.robust_accuracy(attack.name) == result.worst_accuracy == 0.4


def test_misclassified_examples_stay_wrong_and_are_not_attacked():
    mender = Artifact(lambda inputs, threat_model, generator: 1 - inputs)
    result = evaluate(first_input, LINE, LABELS, ThreatModel("linf", 1.0), [mender], generator())
    assert len(mender.given) == 1
    assert torch.equal(mender.given[0], LINE[:4])
    assert not result.worst.any()


def test_batches_without_correct_examples_are_not_attacked():
    attack = left_alone()
    result = evaluate(first_input, LINE, 1 - LABELS, LINF, [attack], generator(), batch_size=1)
    assert result.clean_accuracy == 0.2
    assert len(attack.given) == 1
    result = evaluate(first_input, LINE[:4], 1 - LABELS[:4], LINF, [attack], generator())
    assert result.clean_accuracy == result.worst_accuracy == 0.0
    assert len(attack.given) == 1


def test_worst_accuracy_is_under_the_worst_attack_of_each_example():
    left = Artifact(lambda inputs, threat_model, generator: (inputs - 0.1).clamp_min(0), "left")
    right = Artifact(lambda inputs, threat_model, generator: inputs + 0.1, "right")
    result = evaluate(first_input, LINE, LABELS, LINF, [left, right, left_alone()], generator())
    assert result.robust["left"].tolist() == [True, True, False, True, False]
    assert result.robust["right"].tolist() == [True, False, True, True, False]
    assert result.robust_accuracy("left") == result.robust_accuracy("right") == 0.6
    assert result.robust_accuracy("made") == result.clean_accuracy == 0.8
    assert result.worst_accuracy == 0.4


@pytest.mark.parametrize("threat_model", [LINF, L2], ids=lambda of: of.norm)
def test_robust_accuracies_are_between_the_worst_and_the_clean_one(threat_model):
    attacks = [FGSM(), PGD(3), TargetedPGD(3)]
    classifier, inputs = Tanh.drawn(), images(50, 9)
    labels = torch.where(torch.arange(50) < 40, predictions(classifier, inputs), 0)
    result = evaluate(classifier, inputs, labels, threat_model, attacks, generator())
    for robust in result.robust.values():
        assert not (result.worst & ~robust).any()
        assert not (robust & ~result.clean).any()
    assert list(result.robust) == ["fgsm", "pgd-3x1", "targeted-pgd-3x9"]


def test_batch_size_does_not_change_deterministic_results():
    classifier, inputs = Tanh.drawn(), images(50, 9)
    labels = predictions(classifier, inputs)
    labels[::4] = 0
    first, *others = (
        evaluate(classifier, inputs, labels, LINF, [FGSM()], generator(), batch_size=size) for size in (500, 1, 7, 50)
    )
    for other in others:
        assert torch.equal(other.clean, first.clean)
        assert torch.equal(other.worst, first.worst)


def test_equal_generators_give_equal_results():
    classifier, inputs = Tanh.drawn(), images(50, 9)
    labels = predictions(classifier, inputs)
    first, second = (evaluate(classifier, inputs, labels, LINF, [PGD(1)], generator(3)).worst for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda inputs, threat_model, generator: inputs + 0.2,
            r"left the threat model on 4 of 4 inputs: end its perturb",
        ),
        (lambda inputs, threat_model, generator: inputs - 0.1, r"left the threat model on 1 of 4"),
        (lambda inputs, threat_model, generator: inputs * math.nan, r"left the threat model on 4 of 4 inputs"),
        (lambda inputs, threat_model, generator: inputs[:1], r"float64 tensor \[1, 1\] of .* \[4, 1\]"),
        (
            lambda inputs, threat_model, generator: inputs.float(),
            r"float32 tensor \[4, 1\] of .* float64",
        ),
    ],
    ids=["epsilon", "bounds", "nan", "shape", "dtype"],
)
def test_attack_that_leaves_the_threat_model_is_refused(make, says):
    with pytest.raises(UsageError, match=says):
        evaluate(first_input, LINE, LABELS, LINF, [Artifact(make)], generator())
    networks = {"first": first_input}
    with pytest.raises(UsageError, match=says):
        transfer_matrix(networks, networks, LINE[:4], LABELS[:4], LINF, Artifact(make), generator())


@pytest.mark.parametrize(
    ("attacks", "says"),
    [
        ([], r"at least one; given: none"),
        ([PGD(5), FGSM(), PGD(5, step_fraction=0.5)], r"a name each, .*; given: pgd-5x1, fgsm, pgd-5x1"),
    ],
)
def test_attacks_must_exist_and_have_different_names(attacks, says):
    with pytest.raises(UsageError, match=says):
        evaluate(first_input, LINE, LABELS, LINF, attacks, generator())


@pytest.mark.parametrize("size", [0, -1])
def test_batch_holds_at_least_one_example(size):
    with pytest.raises(UsageError, match=f"batch_size is {size}: give at least 1"):
        evaluate(first_input, LINE, LABELS, LINF, [FGSM()], generator(), batch_size=size)
    with pytest.raises(UsageError, match=f"batch_size is {size}: give at least 1"):
        transfer_matrix({}, {}, LINE, LABELS, LINF, FGSM(), generator(), batch_size=size)


def test_accuracy_of_an_unknown_attack_lists_the_known_ones():
    result = evaluate(first_input, LINE, LABELS, LINF, [FGSM(), PGD(2)], generator())
    with pytest.raises(UsageError, match=r"no attack is named 'pgd'; there are: fgsm, pgd-2x1"):
        result.robust_accuracy("pgd")


def test_attacks_on_one_input_do_not_carry_over_to_the_other():
    """Two classifiers that depend on different inputs: each is fooled by its own attack alone."""
    inputs = torch.tensor([[0.45, 0.45], [0.55, 0.9], [0.9, 0.55], [0.1, 0.45], [0.2, 0.9]]).double()
    labels = torch.tensor([0, 1, 1, 0, 1])  # the last is misclassified by the first classifier
    networks = {
        "first": first_input,
        "last": last_input,
        "both": Linear(torch.zeros(2, 2).double(), torch.tensor([1, 0])),
    }
    found = transfer_matrix(
        {name: networks[name] for name in ("first", "last")}, networks, inputs, labels, LINF, FGSM(), generator()
    )
    assert found.dtype == torch.float64
    # clean: first 4 of 5, last 5 of 5; under its own attack: 2 of 5 each; always 0: the 2 of 5 of that class
    assert found.tolist() == [[0.4, 1.0, 0.4], [0.8, 0.4, 0.4]]


@pytest.mark.parametrize("batch_size", [2, 500])
def test_sources_are_attacked_from_the_same_random_starts(batch_size):
    attack = Artifact(lambda inputs, threat_model, generator: threat_model.starts(inputs, generator))
    networks = {"first": first_input, "last": last_input}
    transfer_matrix(networks, networks, images(4, 2), LABELS[:4], LINF, attack, generator(), batch_size=batch_size)
    half = len(attack.made) // 2
    assert torch.equal(torch.cat(attack.given[:half]), images(4, 2))
    assert torch.equal(torch.cat(attack.made[:half]), torch.cat(attack.made[half:]))
    assert not torch.equal(attack.made[0], attack.given[0])


def test_transfer_attacks_in_full_where_evaluation_may_stop():
    attack, networks = left_alone(), {"first": first_input}
    evaluate(first_input, LINE, LABELS, LINF, [attack], generator())
    transfer_matrix(networks, networks, LINE, LABELS, LINF, attack, generator())
    assert attack.stopping == [True, False]
    assert [len(given) for given in attack.given] == [4, 5]  # all examples, misclassified ones included


def test_equal_sources_have_equal_rows():
    classifier, inputs = Tanh.drawn(), images(30, 9)
    labels = predictions(classifier, inputs)
    sources, targets = {"one": classifier, "two": classifier}, {"itself": classifier, "other": Tanh.drawn(seed=1)}
    found = transfer_matrix(sources, targets, inputs, labels, LINF, PGD(4), generator(), batch_size=8)
    assert torch.equal(found[0], found[1])
    assert_below(found[0, 0], 1)
