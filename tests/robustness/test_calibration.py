"""Likelihood, calibration, selective accuracy and out-of-distribution detection, against counts by hand."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from torch.nn.functional import cross_entropy

from fipray.errors import DataError, UsageError
from fipray.robustness import (
    aurc,
    auroc,
    brier,
    confidence,
    expected_calibration_error,
    log_odds,
    nll,
    selective_accuracy,
)
from tests.problems import normal


def outputs_of(*probabilities: list[float]) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_likelihood_and_brier_score_are_what_their_formulas_say():
    outputs, labels = outputs_of([0.5, 0.3, 0.2], [0.1, 0.1, 0.8]), torch.tensor([0, 1])
    assert nll(outputs, labels) == pytest.approx(-(math.log(0.5) + math.log(0.1)) / 2, abs=1e-15)
    first, second = 0.5**2 + 0.3**2 + 0.2**2, 0.1**2 + 0.9**2 + 0.8**2
    assert brier(outputs, labels) == pytest.approx((first + second) / 2, abs=1e-15)


def test_negative_log_likelihood_is_cross_entropy_for_logits_and_log_probabilities_alike():
    logits, labels = 3 * normal(50, 7), torch.arange(50) % 7
    expected = float(cross_entropy(logits, labels))
    assert nll(logits, labels) == pytest.approx(expected, abs=1e-14)
    assert nll(logits.log_softmax(1), labels) == pytest.approx(expected, abs=1e-14)


def test_certain_and_correct_classifier_has_no_error_of_any_kind():
    outputs, labels = outputs_of([1, 0], [0, 1], [1, 0]), torch.tensor([0, 1, 0])
    for error in (nll, brier, expected_calibration_error, aurc):
        assert error(outputs, labels) == 0
    assert nll(outputs, 1 - labels) == math.inf
    assert brier(outputs, 1 - labels) == 2
    assert expected_calibration_error(outputs, 1 - labels) == aurc(outputs, 1 - labels) == 1


def test_calibration_error_weighs_each_bins_gap_by_its_fraction():
    """Confidences .6, .6 (one right), .9 (right): |1 - 1.2| / 3 + |1 - .9| / 3."""
    outputs = outputs_of([0.6, 0.4], [0.4, 0.6], [0.9, 0.1])
    error = expected_calibration_error(outputs, torch.tensor([0, 0, 0]))
    assert error == pytest.approx((0.2 + 0.1) / 3, abs=1e-15)


def test_confidence_on_an_edge_belongs_to_the_bin_below():
    """.75 is the upper edge of the third of 4 bins, where .7 is too: their gaps cancel as they would not apart."""
    outputs, labels = outputs_of([0.75, 0.25], [0.7, 0.3]), torch.tensor([0, 1])
    assert expected_calibration_error(outputs, labels, 4) == pytest.approx(abs(0.25 - 0.7) / 2, abs=1e-15)


def test_calibration_error_with_one_bin_is_accuracy_against_mean_confidence():
    outputs, labels = normal(40, 5), torch.arange(40) % 5
    gap = (outputs.argmax(1) == labels).double().mean() - outputs.softmax(1).amax(1).mean()
    assert expected_calibration_error(outputs, labels, 1) == pytest.approx(abs(float(gap)), abs=1e-15)


def test_confidence_is_the_largest_probability_and_the_log_odds_are_its_logit():
    outputs = outputs_of([0.5, 0.3, 0.2], [0.1, 0.1, 0.8])
    torch.testing.assert_close(confidence(outputs), torch.tensor([0.5, 0.8], dtype=torch.float64))
    torch.testing.assert_close(log_odds(outputs), torch.tensor([0.0, math.log(4)], dtype=torch.float64))
    surest = torch.tensor([[50.0, 0], [60, 0]])
    assert confidence(surest).tolist() == [1, 1]
    assert log_odds(surest).tolist() == [50, 60]


def test_selective_accuracy_keeps_the_most_confident_examples():
    """In descending confidence: right, wrong, right, right, wrong."""
    outputs = outputs_of([0.7, 0.3], [0.95, 0.05], [0.6, 0.4], [0.9, 0.1], [0.8, 0.2])
    labels = torch.tensor([0, 0, 1, 1, 0])
    accuracies = [selective_accuracy(outputs, labels, fraction) for fraction in (0.2, 0.4, 0.6, 0.8, 1)]
    assert accuracies == pytest.approx([1, 1 / 2, 2 / 3, 3 / 4, 3 / 5], abs=1e-15)
    assert selective_accuracy(outputs, labels, 1e-9) == 1
    assert aurc(outputs, labels) == pytest.approx(1 - sum(accuracies) / 5, abs=1e-15)


def test_examples_that_tie_count_as_the_mean_over_their_orders():
    confidences, per_example = [0.9, 0.7, 0.7, 0.7, 0.6], [False, True, False, True, True]
    outputs = outputs_of(*([value, 1 - value] for value in confidences))
    labels = torch.tensor([0 if result else 1 for result in per_example])
    orders = [[0, *(1 + index for index in order), 4] for order in permutations(range(3))]
    curves = torch.tensor([[per_example[index] for index in order] for order in orders]).double().cumsum(1)
    mean = (curves / torch.arange(1, 6)).mean(0)
    kept = torch.tensor([selective_accuracy(outputs, labels, count / 5) for count in range(1, 6)], dtype=torch.float64)
    torch.testing.assert_close(kept, mean, rtol=0, atol=1e-15)
    assert aurc(outputs, labels) == pytest.approx(1 - float(mean.mean()), abs=1e-15)


@pytest.mark.parametrize("num_values", [3, 1000])
def test_area_under_the_roc_curve_is_a_count_of_pairs(num_values):
    inside = (normal(60).abs() * num_values).round() + num_values // 2
    outside = (normal(41, seed=1).abs() * num_values).round()
    wins, ties = (inside[:, None] > outside).sum(), (inside[:, None] == outside).sum()
    assert auroc(inside, outside) == float(wins + ties / 2) / (60 * 41)
    assert auroc(outside, inside) == pytest.approx(1 - auroc(inside, outside), abs=1e-15)


def test_auroc_of_equal_scores_is_one_half():
    assert auroc(torch.ones(4), torch.ones(3)) == 0.5
    assert auroc(torch.tensor([math.inf, 2.0]), torch.tensor([-math.inf, 1.0])) == 1


@pytest.mark.parametrize("measured", [nll, brier, expected_calibration_error, aurc])
@pytest.mark.parametrize(
    ("outputs", "labels", "says"),
    [
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), r"of shape \(3,\): give floats \[N, C\], C >= 2"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), r"of shape \(0, 2\): give"),
        (torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), r"of shape \(3, 1\): give"),
        (torch.zeros(3, 2), torch.zeros(3), r"labels are torch.float32 of shape \(3,\): give one int64 class"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), r"of shape \(2,\): give one int64 .* the 3 outputs"),
        (torch.zeros(1, 2), torch.tensor([2]), r"range over 2..2, and the classes are 0..1"),
        (torch.tensor([[0, math.nan]]), torch.tensor([0]), "1 of 1 outputs hold NaN or plus infinity"),
        (torch.tensor([[0, math.inf]]), torch.tensor([0]), "1 of 1 outputs hold NaN or plus infinity"),
    ],
)
def test_outputs_and_labels_of_another_kind_are_refused(measured, outputs, labels, says):
    with pytest.raises(DataError, match=says):
        measured(outputs, labels)


def test_coverages_bins_and_scores_out_of_range_are_refused():
    outputs, labels = torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)
    for coverage in (0, -0.5, 1.5):
        with pytest.raises(UsageError, match="give a fraction of the examples, above 0"):
            selective_accuracy(outputs, labels, coverage)
    with pytest.raises(UsageError, match="num_bins is 0"):
        expected_calibration_error(outputs, labels, 0)
    for scores in (torch.zeros(0), torch.zeros(2, 2), torch.tensor([0, math.nan])):
        with pytest.raises(DataError, match=r"give one number an input|tensor \[N\]"):
            auroc(torch.zeros(2), scores)
