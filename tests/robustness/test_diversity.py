"""Diversity measures against closed forms, contingency tables and degenerate members."""

from __future__ import annotations

import math

import pytest
import torch

from fipray.errors import DataError, UsageError
from fipray.robustness import (
    coherence,
    coherence_matrix,
    disagreement,
    disagreement_matrix,
    kappa,
    kappa_matrix,
    mean_of_pairs,
    q_matrix,
    q_statistic,
)
from tests.problems import normal
from tests.robustness.classifiers import Linear, Tanh, images


def test_coherence_of_linear_classifiers_of_two_classes_is_the_cosine_of_their_slopes():
    members = [Linear.drawn(6, 2, seed=seed) for seed in range(3)]
    slopes = torch.stack([member.weight[0] - member.weight[1] for member in members])
    slopes = slopes / slopes.norm(dim=1, keepdim=True)
    inputs, labels = images(7, 2, 3), torch.arange(7) % 2
    cosines = coherence_matrix(members, inputs, labels, batch_size=3)
    torch.testing.assert_close(cosines, slopes @ slopes.T, rtol=0, atol=1e-14)
    expected = (cosines[0, 1] + cosines[0, 2] + cosines[1, 2]) / 3
    assert coherence(members, inputs, labels) == pytest.approx(float(expected), abs=1e-14)


def test_coherence_is_the_mean_of_each_examples_cosine():
    members, inputs, labels = [Tanh.drawn(seed=0), Tanh.drawn(seed=1)], images(5, 9), torch.tensor([0, 1, 2, 3, 0])
    singly = [coherence(members, inputs[n : n + 1], labels[n : n + 1]) for n in range(5)]
    assert coherence(members, inputs, labels) == pytest.approx(sum(singly) / 5, abs=1e-14)


def test_member_is_coherent_with_itself_when_confident_and_opposed_to_its_negative():
    member, inputs, labels = Linear.drawn(4, 2), images(6, 4), torch.arange(6) % 2
    opposite = Linear(-member.weight, member.bias)
    sure = lambda inputs: 1e6 * member(inputs)  # noqa: E731
    cosines = coherence_matrix([member, opposite, sure], inputs, labels)
    expected = torch.tensor([[1, -1, 1], [-1, 1, -1], [1, -1, 1]], dtype=torch.float64)
    torch.testing.assert_close(cosines, expected, rtol=0, atol=1e-14)


def test_example_without_a_gradient_counts_as_no_coherence():
    flat = lambda inputs: 0 * inputs[:, :2]  # noqa: E731
    cosines = coherence_matrix([Linear.drawn(4, 2), flat], images(3, 4), torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(cosines, torch.tensor([[1, 0], [0, 0]], dtype=torch.float64), rtol=0, atol=1e-14)


def test_disagreement_is_the_fraction_of_different_predictions():
    predictions = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 0], [1, 2, 2, 0]])
    expected = torch.tensor([[0, 1, 3], [1, 0, 2], [3, 2, 0]], dtype=torch.float64) / 4
    torch.testing.assert_close(disagreement_matrix(predictions), expected, rtol=0, atol=0)
    assert disagreement(predictions) == 0.5


def right(both: int, first: int, second: int, neither: int) -> torch.Tensor:
    """Correctness [2, N] with given counts of inputs that both, one alone and neither classifies correctly."""
    counts = torch.tensor([both, first, second, neither])
    return torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]]).bool().repeat_interleave(counts, 1)


def test_q_and_kappa_are_those_of_the_contingency_table():
    """Kuncheva & Whitaker (2003): Q, and Cohen's kappa as the interrater agreement of a pair."""
    a, b, c, d = 50, 20, 10, 20
    table = right(a, b, c, d)
    assert q_statistic(table) == pytest.approx((a * d - b * c) / (a * d + b * c), abs=1e-15)
    expected = 2 * (a * d - b * c) / ((a + b) * (b + d) + (a + c) * (c + d))
    assert kappa(table) == pytest.approx(expected, abs=1e-15)
    assert kappa_matrix(table)[0, 0] == q_matrix(table)[0, 0] == 1


def test_members_that_err_independently_have_neither_q_nor_kappa():
    table = right(60, 20, 15, 5)
    assert q_statistic(table) == kappa(table) == 0


def test_members_that_err_on_the_same_inputs_have_a_q_of_one_and_on_different_ones_of_minus_one():
    assert q_statistic(right(5, 0, 0, 5)) == kappa(right(5, 0, 0, 5)) == 1
    assert q_statistic(right(5, 2, 2, 0)) == -1
    assert kappa(right(0, 5, 5, 0)) == -1


def test_kappa_of_three_classes_is_agreement_beyond_chance():
    """Cohen (1960): p_o = 5/6, p_e = (2 * 3 + 2 * 1 + 2 * 2) / 36."""
    ratings = torch.tensor([[0, 0, 1, 1, 2, 2], [0, 0, 1, 0, 2, 2]])
    observed, chance = 5 / 6, (2 * 3 + 2 * 1 + 2 * 2) / 36
    assert kappa(ratings) == pytest.approx((observed - chance) / (1 - chance), abs=1e-15)


def test_two_members_that_are_always_right_have_neither_q_nor_kappa_and_do_not_disagree():
    table = right(10, 0, 0, 0)
    assert math.isnan(q_statistic(table))
    assert math.isnan(kappa(table))
    assert disagreement(table) == 0


def test_one_member_has_no_pairs():
    alone = torch.tensor([[True, False, True]])
    for value in (disagreement(alone), q_statistic(alone), kappa(alone)):
        assert math.isnan(value)
    assert math.isnan(coherence([Linear.drawn(4, 2)], images(3, 4), torch.zeros(3, dtype=torch.int64)))


def test_mean_of_pairs_leaves_nan_out():
    """Member 2 is always right: only members 0 and 1 have a Q."""
    table = torch.cat([right(5, 2, 2, 1), torch.ones(1, 10, dtype=torch.bool)])
    assert q_matrix(table).isnan().tolist() == [[False, False, True], [False, False, True], [True, True, True]]
    assert q_statistic(table) == pytest.approx(1 / 9, abs=1e-15)
    assert mean_of_pairs(torch.tensor([[9.0, 1, math.nan], [1, 9, 2], [math.nan, 2, 9]])) == 1.5


def test_other_ratings_and_no_members_are_refused():
    for per_example in (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.int64)):
        with pytest.raises(DataError, match=r"give classes or booleans \[M, N\]"):
            kappa(per_example)
    with pytest.raises(DataError, match=r"correctness of the members is torch\.int64: give booleans"):
        q_statistic(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(UsageError, match="0 members"):
        coherence([], images(3, 4), torch.zeros(3, dtype=torch.int64))
    inputs = normal(3, 4)
    inputs[0, 0] = math.nan
    with pytest.raises(DataError, match="1 of 3 inputs hold NaN"):
        coherence([Linear.drawn(4, 2)], inputs, torch.zeros(3, dtype=torch.int64))
