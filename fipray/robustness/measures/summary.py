"""Summary of all measures of a network or an ensemble on clean examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import DataError, UsageError
from fipray.robustness.margin import Classifier, check_examples, checked_outputs, correct
from fipray.robustness.measures.calibration import (
    aurc,
    auroc,
    brier,
    expected_calibration_error,
    log_odds,
    nll,
    selective_accuracy,
)
from fipray.robustness.measures.diversity import ANYWHERE, coherence, disagreement, kappa, q_statistic


@dataclass(frozen=True)
class Measures:
    """Measures of a network or an ensemble on clean examples.

    Args:
        num_members: members of the ensemble; 1 for a single network.
        num_examples: examples with labels.
        clean_accuracy: accuracy, 0..1.
        nll: negative log-likelihood in nats; see `nll`.
        expected_calibration_error: with 15 bins, 0..1; see `expected_calibration_error`.
        brier: Brier score, 0..2; see `brier`.
        selective_accuracy_80: accuracy on the 80 % most confident examples; see `selective_accuracy`.
        selective_accuracy_90: accuracy on the 90 % most confident examples.
        aurc: area under the risk-coverage curve, 0..1; see `aurc`.
        ood_auroc: detection of out-of-distribution inputs by log-odds, 0..1; None without such inputs; see `auroc`.
        coherence: gradient coherence of the members, -1..1; None for a single network; see `coherence`.
        disagreement: disagreement of the members' predictions, 0..1; None for a single network; see `disagreement`.
        q_statistic: Yule's Q of the members' correctness; None for a single network; see `q_statistic`.
        kappa: Cohen's kappa of the members' correctness; None for a single network; see `kappa`.
    """

    num_members: int
    num_examples: int
    clean_accuracy: float
    nll: float
    expected_calibration_error: float
    brier: float
    selective_accuracy_80: float
    selective_accuracy_90: float
    aurc: float
    ood_auroc: float | None
    coherence: float | None
    disagreement: float | None
    q_statistic: float | None
    kappa: float | None


@checked
def measure(
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    ood_inputs: Tensor | None = None,
    members: Sequence[Classifier] = (),
    *,
    batch_size: int = 500,
) -> Measures:
    """Measure a classifier on clean examples, and the diversity of its members.

    Costs a forward pass of the classifier, and a forward pass and a gradient of every member.

    Args:
        classifier: network or ensemble.
        inputs: inputs [N, ...].
        labels: classes [N], int64.
        ood_inputs: out-of-distribution inputs [N', ...]; None to leave `ood_auroc` out.
        members: members of the ensemble; diversity is measured for two or more.
        batch_size: examples in one pass, at least 1.

    Returns:
        All measures.

    Raises:
        DataError: for unusable examples, and for outputs with NaN of the classifier or a member.
        UsageError: if `batch_size` is below 1.
    """
    if not batch_size >= 1:
        raise UsageError(f"batch_size is {batch_size}: give at least 1")
    check_examples(inputs, labels, ANYWHERE)
    if ood_inputs is not None and (ood_inputs.shape[1:] != inputs.shape[1:] or len(ood_inputs) == 0):
        raise DataError(
            f"the out-of-distribution inputs have shape {tuple(ood_inputs.shape)} and the others "
            f"{tuple(inputs.shape)}: give one input or more of the same shape"
        )
    outputs = _outputs(classifier, inputs, labels, batch_size)
    ood_auroc = None
    if ood_inputs is not None:
        # Class 0 passes the check of labels; the scores do not use it.
        no_labels = labels.new_zeros(len(ood_inputs))
        ood_auroc = auroc(log_odds(outputs), log_odds(_outputs(classifier, ood_inputs, no_labels, batch_size)))
    cosine = different = q = agreement = None
    if len(members) > 1:
        member_outputs = torch.stack([_outputs(member, inputs, labels, batch_size) for member in members])
        # Minus infinity is a probability of 0, so only NaN and plus infinity are refused.
        if broken := int((~(member_outputs < math.inf)).flatten(1).any(1).sum()):
            raise DataError(f"{broken} of {len(members)} members give NaN or plus infinity: leave them out")
        predictions = member_outputs.argmax(2)
        cosine = coherence(members, inputs, labels, batch_size=batch_size)
        different = disagreement(predictions)
        q, agreement = q_statistic(predictions == labels), kappa(predictions == labels)
    return Measures(
        num_members=max(1, len(members)),
        num_examples=len(inputs),
        clean_accuracy=float(correct(outputs, labels).double().mean()),
        nll=nll(outputs, labels),
        expected_calibration_error=expected_calibration_error(outputs, labels),
        brier=brier(outputs, labels),
        selective_accuracy_80=selective_accuracy(outputs, labels, 0.8),
        selective_accuracy_90=selective_accuracy(outputs, labels, 0.9),
        aurc=aurc(outputs, labels),
        ood_auroc=ood_auroc,
        coherence=cosine,
        disagreement=different,
        q_statistic=q,
        kappa=agreement,
    )


@torch.no_grad()
def _outputs(classifier: Classifier, inputs: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    """Compute the classifier's outputs [N, C] batch by batch."""
    batches = zip(inputs.split(batch_size), labels.split(batch_size), strict=True)
    return torch.cat([checked_outputs(classifier, *batch) for batch in batches])
