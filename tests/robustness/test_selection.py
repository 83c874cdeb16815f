"""Greedy selection of members: optimality where it is guaranteed, and equal scores however they are computed."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch

from fipray.errors import DataError, UsageError
from fipray.robustness import Ensemble, EnsembleAccuracy, MeanOfPairs, greedy_selection
from tests.problems import generator, normal
from tests.robustness.classifiers import Tanh, images

WORTH = normal(8).tolist()


def worth(chosen: tuple[int, ...]) -> float:
    return sum(WORTH[index] for index in chosen)


def accuracy(*, worst: bool = False) -> EnsembleAccuracy:
    return EnsembleAccuracy(2 * normal(6, 4, 15, 3), torch.arange(15) % 3, worst)


def distances(num_candidates: int = 7) -> torch.Tensor:
    return torch.cdist(normal(num_candidates, 3), normal(num_candidates, 3))


def best_of_all_sets(num_candidates, num_members, score):
    return max(combinations(range(num_candidates), num_members), key=score)


def test_greedy_selection_is_optimal_for_additive_scores():
    for num_members in range(1, 9):
        chosen = greedy_selection(8, num_members, worth)
        assert sorted(chosen) == list(best_of_all_sets(8, num_members, worth))
        assert [WORTH[index] for index in chosen] == sorted(WORTH, reverse=True)[:num_members]


def test_greedy_selection_of_submodular_scores_is_within_1_minus_1_over_e_of_the_best_set():
    """How many of 30 things a set covers: monotone and submodular (Nemhauser et al. 1978)."""
    covers = torch.rand(9, 30, generator=generator()) < 0.2
    score = lambda chosen: float(covers[list(chosen)].any(0).sum())  # noqa: E731
    for num_members in (2, 3, 4):
        best = score(best_of_all_sets(9, num_members, score))
        assert (1 - 1 / math.e) * best <= score(greedy_selection(9, num_members, score)) <= best


def test_each_choice_is_the_best_addition_and_the_first_of_equals():
    assert greedy_selection(4, 4, lambda chosen: 0.0) == (0, 1, 2, 3)
    scores = {(0,): 1.0, (1,): 2.0, (2,): 2.0, (1, 0): 5.0, (1, 2): 5.0}
    assert greedy_selection(3, 2, scores.__getitem__) == (1, 0)


def test_chosen_candidates_count_and_come_first():
    assert greedy_selection(4, 3, lambda chosen: -sum(chosen), chosen=(3, 1)) == (3, 1, 0)
    assert greedy_selection(4, 2, worth, chosen=(3, 1)) == (3, 1)


def test_replacement_lets_the_best_come_again():
    assert greedy_selection(8, 3, worth, replacement=True) == (WORTH.index(max(WORTH)),) * 3
    assert greedy_selection(1, 3, worth, replacement=True) == (0, 0, 0)


def test_score_of_nan_is_the_worst():
    assert greedy_selection(3, 3, lambda chosen: [math.nan, -1.0, 2.0][chosen[-1]]) == (2, 1, 0)


def test_accuracy_of_a_set_is_that_of_its_ensemble():
    members, inputs = [Tanh.drawn(seed=seed) for seed in range(3)], [images(20, 9, seed=seed) for seed in range(2)]
    labels = torch.arange(20) % 4
    outputs = torch.stack([torch.stack([member(some) for some in inputs]) for member in members])
    right = torch.stack([Ensemble(members[:2])(some).argmax(1) == labels for some in inputs])
    assert EnsembleAccuracy(outputs, labels)((0, 1)) == float(right.double().mean())
    assert EnsembleAccuracy(outputs, labels, worst=True)((0, 1)) == float(right.all(0).double().mean())


@pytest.mark.parametrize(
    "score",
    [accuracy(), accuracy(worst=True), MeanOfPairs(distances() + distances().mT)],
    ids=["mean", "worst", "pairs"],
)
def test_round_scores_equal_scores_set_by_set(score):
    num_candidates = len(score.with_each(()))
    for chosen in ((), (3,), (3, 1), (2, 2, 5)):
        singly = [score((*chosen, index)) for index in range(num_candidates)]
        torch.testing.assert_close(
            score.with_each(chosen), torch.tensor(singly, dtype=torch.float64), rtol=0, atol=1e-14
        )
    for replacement in (False, True):
        at_once = greedy_selection(num_candidates, 4, score, replacement=replacement)
        assert at_once == greedy_selection(num_candidates, 4, lambda chosen: score(chosen), replacement=replacement)


def test_outputs_of_nan_count_as_wrong():
    outputs = normal(3, 1, 5, 2)
    outputs[0] = math.nan
    score = EnsembleAccuracy(outputs, torch.zeros(5, dtype=torch.int64))
    assert score((0,)) == score((0, 1)) == 0


def test_mean_of_pairs_selects_the_most_distant_pair_of_two_clusters():
    places = torch.tensor([0.0, 0.1, 5.0, 5.2])
    pairs = MeanOfPairs((places[:, None] - places).abs())
    assert greedy_selection(4, 2, pairs) == (0, 3)
    assert pairs((0, 1, 3)) == pytest.approx((0.1 + 5.2 + 5.1) / 3, abs=1e-6)
    assert pairs(()) == pairs((2,)) == 0


@pytest.mark.parametrize(
    ("num_candidates", "num_members", "options"),
    [(3, 4, {}), (3, 0, {}), (0, 1, {"replacement": True}), (3, 1, {"chosen": (0, 1)})],
)
def test_number_of_members_out_of_range_is_refused(num_candidates, num_members, options):
    with pytest.raises(
        UsageError, match=f"{num_members} members of {num_candidates} candidates, .* no more than there"
    ):
        greedy_selection(num_candidates, num_members, worth, **options)


@pytest.mark.parametrize("chosen", [(3,), (-1,), (1, 1)])
def test_chosen_indices_out_of_range_are_refused(chosen):
    with pytest.raises(UsageError, match=r"give different indices of the candidates 0\.\.2"):
        greedy_selection(3, 3, worth, chosen=chosen)


def test_outputs_and_matrices_of_another_shape_are_refused():
    with pytest.raises(DataError, match=r"give \[K, S, N, C\]"):
        EnsembleAccuracy(normal(3, 2, 5, 4), torch.zeros(2, dtype=torch.int64))
    for matrix in (normal(3, 3), normal(3), normal(3, 2)):
        with pytest.raises(DataError, match=r"is not symmetric|tensor \[K, K\]"):
            MeanOfPairs(matrix)
