"""Selection of ensemble members among many candidates, such as the networks along traced paths."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import DataError, UsageError
from fipray.networks.arrays import Square
from fipray.registry import spec
from fipray.robustness.margin import correct

SetScore = Callable[[tuple[int, ...]], float]
"""Indices of a set of candidates -> score of the ensemble that they make; higher is better."""


@runtime_checkable
class RoundScore(Protocol):
    """A score that evaluates all sets of one round of selection at once."""

    def with_each(self, chosen: tuple[int, ...]) -> Tensor:
        """Score the set that each candidate makes together with the chosen ones.

        Args:
            chosen: indices of the chosen candidates.

        Returns:
            Scores [K], one for each of the K candidates; higher is better.
        """
        ...


@checked
def greedy_selection(
    num_candidates: int,
    num_members: int,
    score: SetScore | RoundScore,
    *,
    chosen: tuple[int, ...] = (),
    replacement: bool = False,
) -> tuple[int, ...]:
    """Select ensemble members by forward selection (Caruana et al. 2004).

    Each round adds the candidate that makes the best set with those chosen before, the first of equals. A score of NaN
    is the worst. Takes about K scores a member, or one round of a `RoundScore`.

    Args:
        num_candidates: number of candidates K.
        num_members: members to select, those in `chosen` included.
        score: score of a set of candidates; higher is better.
        chosen: indices of candidates that are members already.
        replacement: whether a candidate may be chosen again, which gives it more weight in an average.

    Returns:
        Indices 0..K-1 of the members, in the order of choice.

    Raises:
        UsageError: if there are not enough candidates, or `chosen` are not different indices of candidates.
    """
    if not max(1, len(chosen)) <= num_members or (
        num_members > num_candidates and not (replacement and num_candidates)
    ):
        raise UsageError(
            f"{num_members} members of {num_candidates} candidates, {len(chosen)} of them chosen already: ask for at "
            "least one, and for no more than there are"
        )
    if not all(0 <= index < num_candidates for index in chosen) or (len({*chosen}) < len(chosen) and not replacement):
        raise UsageError(
            f"chosen already are {chosen}: give different indices of the candidates 0..{num_candidates - 1}"
        )
    while len(chosen) < num_members:
        free = [index for index in range(num_candidates) if replacement or index not in chosen]
        if isinstance(score, RoundScore):
            # One transfer from the device; a float() of each score would wait for it K times.
            scores = score.with_each(chosen)[free].tolist()
        else:
            scores = [float(score((*chosen, index))) for index in free]
        # The maximum of a list with NaN would depend on its order.
        ranked = [-math.inf if math.isnan(value) else value for value in scores]
        chosen = (*chosen, free[ranked.index(max(ranked))])
    return chosen


@spec("ensemble_accuracy")
@checked
@dataclass(frozen=True, eq=False)
class EnsembleAccuracy:
    """Score: accuracy, 0..1, of the ensemble that averages probabilities, on S versions of the same N examples.

    Versions are, for example, the clean inputs and adversarial inputs made on some candidates. A round costs K passes
    over arrays [S, N, C], and no forward pass of a network.

    Args:
        outputs: logits or log-probabilities [K, S, N, C] of each candidate on each version.
        labels: classes [N], int64.
        worst: if true, an example counts as correct only if it is in every version; else every version counts equally.

    Raises:
        DataError: for outputs and labels whose shapes do not fit.
    """

    outputs: Tensor
    labels: Tensor
    worst: bool = False

    def __post_init__(self) -> None:
        if self.outputs.dim() != 4 or self.outputs.shape[2:3] != self.labels.shape or self.outputs.shape[3] < 2:
            raise DataError(
                f"the outputs have shape {tuple(self.outputs.shape)} and the labels {tuple(self.labels.shape)}: give "
                "[K, S, N, C], candidates by sets by examples by classes, C at least 2, and [N]"
            )

    def __call__(self, chosen: tuple[int, ...]) -> float:
        return self._accuracy(self._probabilities[list(chosen)].sum(0))

    def with_each(self, chosen: tuple[int, ...]) -> Tensor:
        # For no chosen candidates the sum is 0, so each is scored alone.
        together = self._probabilities[list(chosen)].sum(0)
        return torch.tensor([self._accuracy(together + added) for added in self._probabilities], dtype=torch.float64)

    @cached_property
    def _probabilities(self) -> Tensor:
        # Once for all rounds: each takes K averages of these.
        return self.outputs.softmax(-1)

    def _accuracy(self, sums: Tensor) -> float:
        """Accuracy by sums of probabilities [S, N, C], whose largest class is that of the mean."""
        right = correct(sums.flatten(0, 1), self.labels.repeat(len(sums))).view(sums.shape[:2])
        return float((right.all(0) if self.worst else right).double().mean())


@spec("mean_of_pairs")
@checked
@dataclass(frozen=True, eq=False)
class MeanOfPairs:
    """Score: mean of a symmetric matrix over the pairs of a set, such as a disagreement or minus a coherence.

    A single candidate scores 0, so without `chosen` the first choice is candidate 0.

    Args:
        matrix: one value for every pair of candidates [K, K], symmetric.

    Raises:
        DataError: for a matrix that is not symmetric.
    """

    matrix: Square

    def __post_init__(self) -> None:
        shape = tuple(self.matrix.shape)
        if not self.matrix.allclose(self.matrix.mT, equal_nan=True):
            raise DataError(f"the matrix of shape {shape} is not symmetric: give one number for every pair [K, K]")

    def __call__(self, chosen: tuple[int, ...]) -> float:
        return float(self._sum(chosen) / max(1, math.comb(len(chosen), 2)))

    def with_each(self, chosen: tuple[int, ...]) -> Tensor:
        # The sum over pairs grows by the new candidate's own pairs alone.
        added = self.matrix[:, list(chosen)].sum(1)
        return (self._sum(chosen) + added) / max(1, math.comb(len(chosen) + 1, 2))

    def _sum(self, chosen: tuple[int, ...]) -> Tensor:
        """Sum over the pairs; a candidate chosen twice pairs with itself by the diagonal entry."""
        return self.matrix[list(chosen)][:, list(chosen)].triu(1).sum()
