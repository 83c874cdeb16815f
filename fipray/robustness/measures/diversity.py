"""Diversity of an ensemble's members: their input gradients, predictions and errors.

Each measure is a symmetric matrix [M, M] in float64 with one value for every pair of members, and its mean over pairs.
Diversity alone says little about robustness: read it beside the accuracy under an attack.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import DataError, UsageError
from fipray.networks.arrays import Square
from fipray.robustness.margin import Classifier, check_examples, margin_gradient
from fipray.robustness.threat_models import ThreatModel

ANYWHERE = ThreatModel("l2", 0.0, -math.inf, math.inf)
"""Threat model for the checks of examples where nothing is attacked: it allows all finite inputs."""


@checked
def coherence(classifiers: Sequence[Classifier], inputs: Tensor, labels: Tensor, *, batch_size: int = 500) -> float:
    """Gradient coherence: mean cosine between the input gradients of two members (Kariyappa & Qureshi 2019).

    Near 1, an input that fools one member fools the others. Costs one gradient a member and example.

    Args:
        classifiers: members, at least one.
        inputs: inputs [N, ...].
        labels: classes [N], int64.
        batch_size: examples in one pass, at least 1.

    Returns:
        The mean over pairs and examples, -1..1; NaN for one member.

    Raises:
        DataError: for unusable examples.
        UsageError: for no members, or a `batch_size` below 1.
    """
    return mean_of_pairs(coherence_matrix(classifiers, inputs, labels, batch_size=batch_size))


@checked
def coherence_matrix(
    classifiers: Sequence[Classifier], inputs: Tensor, labels: Tensor, *, batch_size: int = 500
) -> Tensor:
    """Gradient coherence of every pair of members, `mean_n cos(grad m_i(x_n), grad m_j(x_n))`.

    m is the margin, whose gradient does not vanish where a network is confident (`robustness/margin.py`). An example at
    which a gradient is zero all the same counts 0.

    Args:
        classifiers: see `coherence`.
        inputs: see `coherence`.
        labels: see `coherence`.
        batch_size: see `coherence`.

    Returns:
        Cosines [M, M], -1..1, float64.

    Raises:
        DataError: for unusable examples.
        UsageError: for no members, or a `batch_size` below 1.
    """
    if not classifiers or batch_size < 1:
        raise UsageError(f"{len(classifiers)} members, batch_size {batch_size}: give at least one of each")
    check_examples(inputs, labels, ANYWHERE)
    total = torch.zeros(len(classifiers), len(classifiers), dtype=torch.float64, device=inputs.device)
    for batch, batch_labels in zip(inputs.split(batch_size), labels.split(batch_size), strict=True):
        gradients = (margin_gradient(classifier, batch, batch_labels)[2] for classifier in classifiers)
        # Unit vectors, or 0 where the gradient is; they point downhill, and the signs cancel in the products.
        directions = torch.stack([ANYWHERE.steepest(gradient).flatten().double() for gradient in gradients])
        # Rows run over all examples of the batch, so each product is already the sum of their cosines.
        total += directions @ directions.T
    return total / len(inputs)


@checked
def disagreement(predictions: Tensor) -> float:
    """Fraction of inputs on which two members predict different classes.

    Applied to correctness instead of predictions it is the disagreement measure of Skalak (1996).

    Args:
        predictions: predicted classes [M, N], integers; or correctness [M, N], booleans.

    Returns:
        The mean over pairs, 0..1; NaN for one member.

    Raises:
        DataError: for another dtype or shape.
    """
    return mean_of_pairs(disagreement_matrix(predictions))


@checked
def disagreement_matrix(predictions: Tensor) -> Tensor:
    """Fraction of inputs on which two members differ, for every pair.

    Args:
        predictions: see `disagreement`.

    Returns:
        Fractions [M, M], 0..1, zero on the diagonal.

    Raises:
        DataError: see `disagreement`.
    """
    agreements, _ = _counts(predictions)
    return 1 - agreements.double() / predictions.shape[1]


@checked
def q_statistic(right: Tensor) -> float:
    """Yule's Q statistic of the errors of two members (Kuncheva & Whitaker 2003).

    It is 0 for independent errors, 1 for errors on the same inputs, and below 0 for errors on different ones.

    Args:
        right: correctness [M, N] of each member, booleans.

    Returns:
        The mean over the pairs for which it is defined, -1..1; NaN if there are none.

    Raises:
        DataError: for another dtype or shape.
    """
    return mean_of_pairs(q_matrix(right))


@checked
def q_matrix(right: Tensor) -> Tensor:
    """Yule's Q of every pair of members, `(ad - bc) / (ad + bc)`.

    a counts the inputs on which both are correct, d those on which both are wrong, b and c those on which only one is
    correct.

    Args:
        right: see `q_statistic`.

    Returns:
        Q [M, M], -1..1; NaN where the denominator is zero, as for a member that makes no errors or only errors.

    Raises:
        DataError: see `q_statistic`.
    """
    if right.dtype != torch.bool:
        raise DataError(
            f"the correctness of the members is {right.dtype}: give booleans [M, N], such as predictions == labels"
        )
    _counts(right)
    # In float64, which holds these counts exactly: int64 has no matrix product on a GPU.
    yes, no = right.double(), (~right).double()
    same, other = (yes @ yes.T) * (no @ no.T), (yes @ no.T) * (no @ yes.T)
    return (same - other) / (same + other)


@checked
def kappa(ratings: Tensor) -> float:
    """Cohen's kappa of two members: agreement corrected for chance.

    It is 1 if they always agree, and 0 if they agree as often as by chance. Applied to correctness it is the pairwise
    interrater agreement of Kuncheva & Whitaker (2003).

    Args:
        ratings: predicted classes [M, N], integers; or correctness [M, N], booleans.

    Returns:
        The mean over the pairs for which it is defined, up to 1; NaN if there are none.

    Raises:
        DataError: for another dtype or shape.
    """
    return mean_of_pairs(kappa_matrix(ratings))


@checked
def kappa_matrix(ratings: Tensor) -> Tensor:
    """Cohen's kappa of every pair of members, `(p_o - p_e) / (1 - p_e)` (Cohen 1960).

    p_o is the fraction of inputs on which two members agree, and `p_e = sum_c p_i(c) p_j(c)` the fraction expected by
    chance.

    Args:
        ratings: see `kappa`.

    Returns:
        Kappa [M, M], up to 1; NaN where p_e is 1, as both give one class to all inputs.

    Raises:
        DataError: see `kappa`.
    """
    agreements, chances = _counts(ratings)
    num_examples = ratings.shape[1]
    # Integers up to the last division, so that 0 / 0 is exactly where kappa is undefined.
    return (num_examples * agreements - chances).double() / (num_examples**2 - chances).double()


@checked
def mean_of_pairs(matrix: Square) -> float:
    """Mean of a symmetric matrix over the pairs i < j.

    Args:
        matrix: one value for every pair [M, M].

    Returns:
        The mean of the values that are not NaN; NaN if there are none.
    """
    rows, columns = torch.triu_indices(len(matrix), len(matrix), 1, device=matrix.device)
    # nanmean of no values is NaN, as for a single member.
    return float(matrix[rows, columns].nanmean())


def _counts(ratings: Tensor) -> tuple[Tensor, Tensor]:
    """Count inputs [M, M] on which two members agree, and `sum_c n_i(c) n_j(c)` [M, M], n counting predictions of c."""
    if ratings.dim() != 2 or ratings.numel() == 0 or ratings.is_floating_point() or ratings.is_complex():
        raise DataError(
            f"the members' ratings are {ratings.dtype} of shape {tuple(ratings.shape)}: give classes or booleans "
            "[M, N], one row a member and one column an input"
        )
    # Unlike float64, int64 has no matrix product on a GPU; both hold these numbers exactly.
    classes = ratings.unique()
    one_hot = (ratings[:, :, None] == classes).double()
    totals = one_hot.sum(1)
    flat = one_hot.flatten(1)
    return (flat @ flat.T).long(), (totals @ totals.T).long()
