"""Which of many candidates make the best ensemble: networks along traced paths are many, and members cost inference."""

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
"""The indices of a set of candidates -> how good an ensemble they make; higher is better."""


@runtime_checkable
class RoundScore(Protocol):
    """A score of sets that scores all the sets of one round at once."""

    def with_each(self, chosen: tuple[int, ...]) -> Tensor:
        """The score [K] of the set that each of the K candidates makes together with those chosen."""
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
    """The indices of `num_members` of the candidates 0..K-1, in the order of choice: each makes the best set with those
    before it, and is the first of equals (forward selection, Caruana et al. 2004).

    `chosen` are taken already, and count. With `replacement` a candidate may come again, which gives it more weight in
    an average. A score that is NaN is the worst. Asks for about K scores a member, or one round of a RoundScore.

    Raises UsageError where there are not as many candidates.
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
            scores = score.with_each(chosen)[free].tolist()
        else:
            scores = [float(score((*chosen, index))) for index in free]
        ranked = [-math.inf if math.isnan(value) else value for value in scores]
        chosen = (*chosen, free[ranked.index(max(ranked))])
    return chosen


@spec("ensemble_accuracy")
@checked
@dataclass(frozen=True, eq=False)
class EnsembleAccuracy:
    """The accuracy, 0..1, of the averaged ensemble (as `Ensemble` averages) on S sets of the same N examples.

    outputs [K, S, N, C]: logits or log-probabilities of each candidate on each set, such as the clean inputs, or inputs
    that were made adversarial on each candidate. labels [N]. With `worst` an example counts as right only where it is
    right in every set; without, every set counts alike. A round costs K passes over numbers [S, N, C].
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
        together = self._probabilities[list(chosen)].sum(0)
        return torch.tensor([self._accuracy(together + its) for its in self._probabilities], dtype=torch.float64)

    @cached_property
    def _probabilities(self) -> Tensor:
        return self.outputs.softmax(-1)

    def _accuracy(self, sums: Tensor) -> float:
        """Of sums of probabilities [S, N, C]: their largest is the mean's."""
        right = correct(sums.flatten(0, 1), self.labels.repeat(len(sums))).view(sums.shape[:2])
        return float((right.all(0) if self.worst else right).double().mean())


@spec("mean_of_pairs")
@checked
@dataclass(frozen=True, eq=False)
class MeanOfPairs:
    """The mean of a symmetric matrix [K, K] over the pairs of a set: of a disagreement, or of minus a coherence.

    0 for a single candidate: without `chosen`, the first choice is candidate 0.
    """

    matrix: Square

    def __post_init__(self) -> None:
        shape = tuple(self.matrix.shape)
        if not self.matrix.allclose(self.matrix.mT, equal_nan=True):
            raise DataError(f"the matrix of shape {shape} is not symmetric: give a number for every pair [K, K]")

    def __call__(self, chosen: tuple[int, ...]) -> float:
        return float(self._sum(chosen) / max(1, math.comb(len(chosen), 2)))

    def with_each(self, chosen: tuple[int, ...]) -> Tensor:
        added = self.matrix[:, list(chosen)].sum(1)
        return (self._sum(chosen) + added) / max(1, math.comb(len(chosen) + 1, 2))

    def _sum(self, chosen: tuple[int, ...]) -> Tensor:
        """Over the pairs; of one that was chosen twice, the matrix's own entry."""
        return self.matrix[list(chosen)][:, list(chosen)].triu(1).sum()
