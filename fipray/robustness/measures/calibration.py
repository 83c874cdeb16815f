"""How well a classifier knows what it does not know: likelihood, calibration, selection by confidence, the unfamiliar.

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
    """The negative log-likelihood `mean_n -log p_y` in nats, >= 0, of outputs [N, C] and labels [N]."""
    return float(-_log_probabilities(outputs, labels).gather(1, labels[:, None]).mean())


@checked
def brier(outputs: Tensor, labels: Tensor) -> float:
    """The score of Brier (1950), `mean_n sum_k (p_k - [k = y])^2`, 0..2, of outputs [N, C] and labels [N]."""
    errors = _log_probabilities(outputs, labels).exp()
    errors[torch.arange(len(labels), device=labels.device), labels] -= 1
    return float(errors.square().sum(1).mean())


@checked
def expected_calibration_error(outputs: Tensor, labels: Tensor, num_bins: int = 15) -> float:
    """How far confidence is from accuracy, `sum_b |B_b|/N |accuracy(B_b) - confidence(B_b)|`, 0..1.

    The bins B_b are `num_bins` intervals of confidence (b/num_bins, (b+1)/num_bins] (Guo et al. 2017, equation 3).
    """
    if not num_bins >= 1:
        raise UsageError(f"num_bins is {num_bins}: give at least 1")
    _log_probabilities(outputs, labels)
    confidences = confidence(outputs)
    edges = torch.arange(1, num_bins, dtype=torch.float64, device=outputs.device) / num_bins
    gaps = confidences.new_zeros(num_bins)
    gaps.index_add_(0, torch.bucketize(confidences, edges), correct(outputs, labels).double() - confidences)
    return float(gaps.abs().sum() / len(labels))


@checked
def confidence(outputs: Outputs) -> Tensor:
    """The largest class probability [N], 1/C..1, of outputs [N, C] (Hendrycks & Gimpel 2017)."""
    return outputs.double().softmax(1).amax(1)


@checked
def log_odds(outputs: Outputs) -> Tensor:
    """`log p_k / (1 - p_k)` [N] of the likeliest class k: ranks as confidence does, and tells apart what rounds to 1.

    A network may be sure of many examples up to the last digit of float64; to confidence they are ties.
    """
    doubles = outputs.double()
    return margins(doubles, doubles.argmax(1))


@checked
def selective_accuracy(outputs: Tensor, labels: Tensor, coverage: float) -> float:
    """Accuracy, 0..1, on the share `coverage`, in (0, 1], of the examples of which the classifier is surest.

    That is round(coverage N) examples, at least one. Where examples tie, the mean over all their orders.
    """
    if not 0 < coverage <= 1:
        raise UsageError(f"coverage is {coverage}: give a share of the examples, above 0 and up to 1")
    return float(_selective_accuracies(outputs, labels)[max(1, round(coverage * len(labels))) - 1])


@checked
def aurc(outputs: Tensor, labels: Tensor) -> float:
    """The area under the risk-coverage curve, 0..1, lower is better: the error rate on the n surest examples, averaged
    over n = 1..N (Geifman & El-Yaniv 2017; Geifman et al. 2019).

    Where examples tie, the mean over all their orders.
    """
    return float(1 - _selective_accuracies(outputs, labels).mean())


@checked
def auroc(inside_scores: Scores, ood_scores: Scores) -> float:
    """The chance, 0..1, that an input from inside scores higher than one from outside; a tie counts one half.

    It is the area under the receiver operating characteristic, and U / (N N') of Mann & Whitney (1947): of scores [N]
    and [N'], such as `log_odds` or `confidence`, counted exactly. 1/2 is what chance tells apart. O((N + N') log N').
    """
    for scores in (inside_scores, ood_scores):
        if scores.dim() != 1 or len(scores) == 0 or bool(scores.isnan().any()):
            raise DataError(
                f"scores of shape {tuple(scores.shape)}, {int(scores.isnan().sum())} of them NaN: give one number an "
                "input, for one input or more"
            )
    ranked = ood_scores.double().sort().values
    below, up_to = (torch.searchsorted(ranked, inside_scores.double(), right=right) for right in (False, True))
    return int((below + up_to).sum()) / (2 * len(inside_scores) * len(ood_scores))


def _selective_accuracies(outputs: Tensor, labels: Tensor) -> Tensor:
    """Accuracy [N] on the n surest examples, n = 1..N; examples that tie share their verdicts evenly."""
    _log_probabilities(outputs, labels)
    odds, order = log_odds(outputs).sort(descending=True)
    per_example = correct(outputs, labels)[order].double()
    _, group, sizes = odds.unique_consecutive(return_inverse=True, return_counts=True)
    shared = (per_example.new_zeros(len(sizes)).index_add_(0, group, per_example) / sizes)[group]
    return shared.cumsum(0) / torch.arange(1, len(labels) + 1, device=labels.device)


def _log_probabilities(outputs: Tensor, labels: Tensor) -> Tensor:
    """Log p [N, C]. Raises DataError where outputs and labels are no such thing."""
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
            f"{broken} of {len(outputs)} outputs are no probabilities of classes: they hold NaN or plus infinity; "
            "leave a network that computes such out"
        )
    return logarithms
