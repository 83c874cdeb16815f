"""Likelihood, calibration, selective accuracy and out-of-distribution detection.

Everything is computed in float64 from outputs z [N, C], logits or log-probabilities, with p = softmax(z).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import DataError, UsageError
from fipray.networks.arrays import Outputs, Scores
from fipray.robustness.margin import correct, margins


@checked
def nll(outputs: Tensor, labels: Tensor) -> float:
    """Negative log-likelihood, `mean_n -log p_y`.

    Args:
        outputs: logits or log-probabilities [N, C].
        labels: classes [N], int64.

    Returns:
        The mean over examples in nats, at least 0.

    Raises:
        DataError: for outputs with NaN or plus infinity, for other shapes, and for labels outside the classes.
    """
    return float(-_log_probabilities(outputs, labels).gather(1, labels[:, None]).mean())


@checked
def brier(outputs: Tensor, labels: Tensor) -> float:
    """Brier score, `mean_n sum_k (p_k - [k = y])^2` (Brier 1950).

    Args:
        outputs: logits or log-probabilities [N, C].
        labels: classes [N], int64.

    Returns:
        The mean over examples, 0..2.

    Raises:
        DataError: see `nll`.
    """
    errors = _log_probabilities(outputs, labels).exp()
    errors[torch.arange(len(labels), device=labels.device), labels] -= 1
    return float(errors.square().sum(1).mean())


@checked
def expected_calibration_error(outputs: Tensor, labels: Tensor, num_bins: int = 15) -> float:
    """Calibration error in expectation (ECE), `sum_b |B_b|/N |accuracy(B_b) - confidence(B_b)|`.

    The bins B_b are intervals (b/num_bins, (b+1)/num_bins] of confidence (Guo et al. 2017, equation 3).

    Args:
        outputs: logits or log-probabilities [N, C].
        labels: classes [N], int64.
        num_bins: number of bins, at least 1.

    Returns:
        The error, 0..1.

    Raises:
        DataError: see `nll`.
        UsageError: if `num_bins` is below 1.
    """
    if not num_bins >= 1:
        raise UsageError(f"num_bins is {num_bins}: give at least 1")
    # Called for its checks of outputs and labels alone.
    _log_probabilities(outputs, labels)
    confidences = confidence(outputs)
    edges = torch.arange(1, num_bins, dtype=torch.float64, device=outputs.device) / num_bins
    gaps = confidences.new_zeros(num_bins)
    # Summed per bin: |B_b| cancels, so that empty bins need no care.
    # bucketize puts a value on an edge into the bin below, as bins are closed above.
    gaps.index_add_(0, torch.bucketize(confidences, edges), correct(outputs, labels).double() - confidences)
    return float(gaps.abs().sum() / len(labels))


@checked
def confidence(outputs: Outputs) -> Tensor:
    """Confidence: the largest class probability (Hendrycks & Gimpel 2017).

    Args:
        outputs: logits or log-probabilities [N, C].

    Returns:
        Confidences [N], 1/C..1, float64.
    """
    return outputs.double().softmax(1).amax(1)


@checked
def log_odds(outputs: Outputs) -> Tensor:
    """Log-odds `log p_k / (1 - p_k)` of the likeliest class k.

    They rank examples as confidence does, but without ties where confidence rounds to 1, as it may for many examples of
    a confident network even in float64.

    Args:
        outputs: logits or log-probabilities [N, C].

    Returns:
        Log-odds [N], float64.
    """
    doubles = outputs.double()
    return margins(doubles, doubles.argmax(1))


@checked
def selective_accuracy(outputs: Tensor, labels: Tensor, coverage: float) -> float:
    """Accuracy on the most confident examples.

    Args:
        outputs: logits or log-probabilities [N, C].
        labels: classes [N], int64.
        coverage: fraction of the examples, above 0 and up to 1: round(coverage N) of them, at least one.

    Returns:
        The accuracy, 0..1; where confidences tie, the mean over all orders.

    Raises:
        DataError: see `nll`.
        UsageError: if `coverage` is out of range.
    """
    if not 0 < coverage <= 1:
        raise UsageError(f"coverage is {coverage}: give a fraction of the examples, above 0 and up to 1")
    return float(_selective_accuracies(outputs, labels)[max(1, round(coverage * len(labels))) - 1])


@checked
def aurc(outputs: Tensor, labels: Tensor) -> float:
    """Area under the risk-coverage curve (Geifman & El-Yaniv 2017; Geifman et al. 2019).

    It is the error rate on the n most confident examples, averaged over n = 1..N.

    Args:
        outputs: logits or log-probabilities [N, C].
        labels: classes [N], int64.

    Returns:
        The area, 0..1, lower is better; where confidences tie, the mean over all orders.

    Raises:
        DataError: see `nll`.
    """
    return float(1 - _selective_accuracies(outputs, labels).mean())


@checked
def auroc(inside_scores: Scores, ood_scores: Scores) -> float:
    """Area under the receiver operating characteristic for telling inputs from out-of-distribution inputs.

    It is the probability that an in-distribution input scores higher than an out-of-distribution one, U / (N N') of
    Mann & Whitney (1947), a tie counting one half. Computed exactly in O((N + N') log N').

    Args:
        inside_scores: scores [N] of in-distribution inputs, such as `log_odds` or `confidence`.
        ood_scores: scores [N'] of out-of-distribution inputs.

    Returns:
        The area, 0..1; 1/2 for scores that carry no information.

    Raises:
        DataError: for no scores, NaN, or another shape.
    """
    for scores in (inside_scores, ood_scores):
        if scores.dim() != 1 or len(scores) == 0 or bool(scores.isnan().any()):
            raise DataError(
                f"scores of shape {tuple(scores.shape)}, {int(scores.isnan().sum())} of them NaN: give one number an "
                "input, for one input or more"
            )
    ranked = ood_scores.double().sort().values
    # Strictly below and up to: their mean counts a tie as one half.
    below, up_to = (torch.searchsorted(ranked, inside_scores.double(), right=right) for right in (False, True))
    # Integers up to the division, so that the count of pairs is exact.
    return int((below + up_to).sum()) / (2 * len(inside_scores) * len(ood_scores))


def _selective_accuracies(outputs: Tensor, labels: Tensor) -> Tensor:
    """Accuracy [N] on the n most confident examples, n = 1..N; ties count with their mean correctness."""
    _log_probabilities(outputs, labels)
    odds, order = log_odds(outputs).sort(descending=True)
    per_example = correct(outputs, labels)[order].double()
    _, group, sizes = odds.unique_consecutive(return_inverse=True, return_counts=True)
    # Each position among ties counts with the mean of the group, which is the mean over all their orders.
    shared = (per_example.new_zeros(len(sizes)).index_add_(0, group, per_example) / sizes)[group]
    return shared.cumsum(0) / torch.arange(1, len(labels) + 1, device=labels.device)


def _log_probabilities(outputs: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities [N, C] of checked outputs and labels."""
    if outputs.dim() != 2 or len(outputs) == 0 or outputs.shape[1] < 2 or not outputs.is_floating_point():
        raise DataError(f"the outputs are {outputs.dtype} of shape {tuple(outputs.shape)}: give floats [N, C], C >= 2")
    if labels.dtype != torch.int64 or labels.shape != outputs.shape[:1]:
        raise DataError(
            f"the labels are {labels.dtype} of shape {tuple(labels.shape)}: give one int64 class for each of the "
            f"{len(outputs)} outputs"
        )
    smallest, largest = (int(value) for value in labels.aminmax())
    if smallest < 0 or largest >= outputs.shape[1]:
        raise DataError(f"the labels range over {smallest}..{largest}, and the classes are 0..{outputs.shape[1] - 1}")
    logarithms = outputs.double().log_softmax(1)
    if broken := int(logarithms.isnan().any(1).sum()):
        raise DataError(
            f"{broken} of {len(outputs)} outputs hold NaN or plus infinity, which gives no class probabilities: leave "
            "this network out"
        )
    return logarithms
