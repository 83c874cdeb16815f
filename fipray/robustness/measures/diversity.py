"""How unlike the members of an ensemble are: where their gradients point, what they predict, where they err.

Each measure is a symmetric matrix [M, M] in float64, a number for every pair of members, and its mean over the pairs.
Agreement says little of robustness by itself: it is to be read beside an attack.
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
"""Any finite inputs may be measured: nobody attacks here."""


@checked
def coherence(classifiers: Sequence[Classifier], inputs: Tensor, labels: Tensor, *, batch_size: int = 500) -> float:
    """The mean cosine, -1..1, between two members' input gradients: over pairs and examples; NaN for one member.

    Near 1, what fools one member fools the others (Kariyappa & Qureshi 2019). Raises and costs as `coherence_matrix`.
    """
    return mean_of_pairs(coherence_matrix(classifiers, inputs, labels, batch_size=batch_size))


@checked
def coherence_matrix(
    classifiers: Sequence[Classifier], inputs: Tensor, labels: Tensor, *, batch_size: int = 500
) -> Tensor:
    """`mean_n cos(grad m_i(x_n), grad m_j(x_n))` [M, M], -1..1, of inputs [N, ...] and labels [N].

    m is the margin, whose gradient does not vanish where a network is sure (`robustness/margin.py`). An example where a
    gradient is zero all the same counts 0. Costs one gradient a member. Raises DataError for unusable examples.
    """
    if not classifiers or batch_size < 1:
        raise UsageError(f"{len(classifiers)} members, batch_size {batch_size}: give at least one of each")
    check_examples(inputs, labels, ANYWHERE)
    total = inputs.new_zeros(len(classifiers), len(classifiers), dtype=torch.float64)
    for some, their_labels in zip(inputs.split(batch_size), labels.split(batch_size), strict=True):
        gradients = (margin_gradient(classifier, some, their_labels)[2] for classifier in classifiers)
        # Of length 1, or 0 where the gradient is; their signs cancel in the products.
        directions = torch.stack([ANYWHERE.steepest(gradient).flatten().double() for gradient in gradients])
        total += directions @ directions.T
    return total / len(inputs)


@checked
def disagreement(predictions: Tensor) -> float:
    """The share of inputs, 0..1, on which two members predict different classes: mean over pairs; NaN for one member.

    predictions [M, N], integer classes. The disagreement measure of Skalak (1996) is that of correctness [M, N].
    """
    return mean_of_pairs(disagreement_matrix(predictions))


@checked
def disagreement_matrix(predictions: Tensor) -> Tensor:
    """The same [M, M], zero on the diagonal."""
    agreements, _ = _counts(predictions)
    return 1 - agreements.double() / predictions.shape[1]


@checked
def q_statistic(right: Tensor) -> float:
    """Yule's Q, -1..1, of two members' errors: mean over the pairs for which it exists, NaN where there is none.

    right [M, N], boolean: whether each member is right. 0: they err independently; 1: on the same inputs; below 0: on
    different ones (Kuncheva & Whitaker 2003).
    """
    return mean_of_pairs(q_matrix(right))


@checked
def q_matrix(right: Tensor) -> Tensor:
    """`(ad - bc) / (ad + bc)` [M, M]: a inputs are right for both, d wrong for both, b and c right for one alone.

    NaN where the denominator is zero, as for a member that makes no errors or nothing but errors.
    """
    if right.dtype != torch.bool:
        raise DataError(
            f"the correctness of the members is {right.dtype}: give booleans [M, N], as predictions == labels"
        )
    _counts(right)
    yes, no = right.double(), (~right).double()
    same, other = (yes @ yes.T) * (no @ no.T), (yes @ no.T) * (no @ yes.T)
    return (same - other) / (same + other)


@checked
def kappa(ratings: Tensor) -> float:
    """Cohen's kappa, up to 1, of two members: mean over the pairs for which it exists, NaN where there is none.

    1: they always agree; 0: as often as by chance. ratings [M, N] are predictions (integer classes), or correctness
    (booleans), of which it is the pairwise interrater agreement of Kuncheva & Whitaker (2003).
    """
    return mean_of_pairs(kappa_matrix(ratings))


@checked
def kappa_matrix(ratings: Tensor) -> Tensor:
    """`(p_o - p_e) / (1 - p_e)` [M, M] (Cohen 1960): p_o the share of inputs on which two members agree, and
    `p_e = sum_c p_i(c) p_j(c)` the share on which they would by chance.

    NaN where p_e is 1: both give one class to all inputs.
    """
    agreements, chances = _counts(ratings)
    num_examples = ratings.shape[1]
    return (num_examples * agreements - chances).double() / (num_examples**2 - chances).double()


@checked
def mean_of_pairs(matrix: Square) -> float:
    """The mean over the pairs i < j of a matrix [M, M] that are not NaN; NaN where there is no such pair."""
    rows, columns = torch.triu_indices(len(matrix), len(matrix), 1, device=matrix.device)
    return float(matrix[rows, columns].nanmean())


def _counts(ratings: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers [M, M]: on how many inputs two members agree; `sum_c n_i(c) n_j(c)`, n how often each says c."""
    if ratings.dim() != 2 or ratings.numel() == 0 or ratings.is_floating_point() or ratings.is_complex():
        raise DataError(
            f"the members' verdicts are {ratings.dtype} of shape {tuple(ratings.shape)}: give classes or booleans "
            "[M, N], one row a member and one column an input"
        )
    # Unlike float64, int64 has no matrix product on a GPU; both hold these numbers exactly.
    classes = ratings.unique()
    says = (ratings[:, :, None] == classes).double()
    often = says.sum(1)
    flat = says.flatten(1)
    return (flat @ flat.T).long(), (often @ often.T).long()
