"""All the measures of a network or an ensemble that need no attack, in a few passes over the examples."""

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
    """What a network or an ensemble is like on examples as they are. `calibration.py` and `diversity.py` say how.

    `selective_accuracy_80` and `_90` are on the 80 % and 90 % of which it is surest; `ood_auroc` is how well confidence
    tells the inputs from those outside, None without any. The last four are of pairs of members, None for a single
    network; q_statistic and kappa are of the members' correctness, NaN where they do not exist.
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
    """Measures `classifier` on inputs [N, ...] and labels int64 [N], and how unlike its `members` are, if two or more.

    `ood_inputs` [N', ...] are inputs of no class. Costs a forward pass of the classifier, and of every member one more
    and a gradient. Raises DataError for unusable examples, and for outputs with NaN, of a member too.
    """
    if not batch_size >= 1:
        raise UsageError(f"batch_size is {batch_size}: give at least 1")
    check_examples(inputs, labels, ANYWHERE)
    if ood_inputs is not None and (ood_inputs.shape[1:] != inputs.shape[1:] or len(ood_inputs) == 0):
        raise DataError(
            f"the inputs outside have shape {tuple(ood_inputs.shape)} and those inside {tuple(inputs.shape)}: give one "
            "input or more of the same shape"
        )
    outputs = _outputs(classifier, inputs, labels, batch_size)
    ood_auroc = None
    if ood_inputs is not None:
        no_labels = labels.new_zeros(len(ood_inputs))
        ood_auroc = auroc(log_odds(outputs), log_odds(_outputs(classifier, ood_inputs, no_labels, batch_size)))
    cosine = apart = q = agreement = None
    if len(members) > 1:
        given = torch.stack([_outputs(member, inputs, labels, batch_size) for member in members])
        if broken := int((~(given < math.inf)).flatten(1).any(1).sum()):
            raise DataError(f"{broken} of {len(members)} members give NaN or plus infinity: leave them out")
        predictions = given.argmax(2)
        cosine = coherence(members, inputs, labels, batch_size=batch_size)
        apart = disagreement(predictions)
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
        disagreement=apart,
        q_statistic=q,
        kappa=agreement,
    )


@torch.no_grad()
def _outputs(classifier: Classifier, inputs: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    """The classifier's outputs [N, C]."""
    batches = zip(inputs.split(batch_size), labels.split(batch_size), strict=True)
    return torch.cat([checked_outputs(classifier, *some) for some in batches])
