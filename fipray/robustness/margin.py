"""Margins of a classifier, their gradients, and checks of examples and outputs.

With outputs z [C], logits or log-probabilities, the margin is

    m(x) = z_y(x) - log sum_{k != y} exp z_k(x)

and cross-entropy is log(1 + exp(-m)), a decreasing function of m, so its gradient in the input is parallel to that of
the margin. The gradient of cross-entropy, however, has the factor 1 - p_y, which is exactly zero in float32 once the
logits are about 17 apart: most examples of a well-trained network then look robust because the attack does not move.
The margin's gradient does not vanish, so every attack here descends the margin.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fipray.border import described
from fipray.errors import DataError, UsageError
from fipray.networks import Deferred
from fipray.robustness.threat_models import ThreatModel

_CHUNK = 500  # inputs that are checked at a time where they are read by reference
Classifier = Callable[[Tensor], Tensor]
"""Inputs [N, ...] -> logits or log-probabilities [N, C], C >= 2; deterministic, each example independent of others."""


def margins(outputs: Tensor, labels: Tensor, rivals: Tensor | None = None) -> Tensor:
    """Margins `z_y - log sum_{k != y} exp z_k`, or `z_y - z_k` against one wrong class k.

    Args:
        outputs: logits or log-probabilities z [N, C].
        labels: classes y [N].
        rivals: wrong classes k [N]; None for all of them.

    Returns:
        Margins [N]. Without rivals they are above 0 where the label's probability is above 1/2.
    """
    if rivals is None:
        # Minus infinity takes the label out of the sum. On a CPU `scatter` would take several times as long.
        is_label = torch.arange(outputs.shape[1], device=outputs.device) == labels[:, None]
        others = outputs.masked_fill(is_label, -math.inf).logsumexp(1)
    else:
        others = _of_class(outputs, rivals)
    return _of_class(outputs, labels) - others


def correct(outputs: Tensor, labels: Tensor) -> Tensor:
    """Correctness of each example.

    Args:
        outputs: logits or log-probabilities [N, C].
        labels: classes [N].

    Returns:
        Booleans [N], true where the largest output is the label's; false for outputs with a NaN.
    """
    # argmax takes NaN for the largest value, so a NaN at the label would count as correct.
    return (outputs.argmax(1) == labels) & ~outputs.isnan().any(1)


def margin_gradient(
    classifier: Classifier,
    inputs: Tensor,
    labels: Tensor,
    rivals: Tensor | None = None,
    *,
    are_checked: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute outputs, margins and the gradients of the margins in the inputs.

    Args:
        classifier: classifier to evaluate.
        inputs: inputs [N, ...].
        labels: classes [N].
        rivals: see `margins`.
        are_checked: whether the labels are known to be classes of the classifier; see `checked_outputs`.

    Returns:
        Outputs [N, C], margins [N] and their gradients [N, ...].

    Raises:
        UsageError: if autograd finds no path from the outputs to the inputs, since every attack would seem to fail.
    """
    with torch.enable_grad():
        # A new leaf: the caller's tensor must not start to require gradients.
        inputs = inputs.detach().requires_grad_()
        outputs = checked_outputs(classifier, inputs, None if are_checked else labels)
        # Examples do not affect each other, so the gradient of the sum of margins holds that of each.
        margin = margins(outputs, labels, rivals)
        # Outputs may require a gradient because of the classifier's weights alone: then that of the inputs is None.
        found = torch.autograd.grad(margin.sum(), inputs, allow_unused=True) if margin.requires_grad else (None,)
    if found[0] is None:
        raise UsageError(
            "the classifier's outputs carry no gradient back to its inputs, which this attack needs: "
            "let it compute them in torch, without detach(), no_grad() or inference_mode()"
        )
    return outputs.detach(), margin.detach(), found[0]


def check_examples(inputs: Tensor, labels: Tensor, threat_model: ThreatModel) -> None:
    """Check inputs and labels before an attack.

    Inputs may exceed the bounds by rounding errors, as normalised ones do, within the slack of `ThreatModel.contains`.

    Args:
        inputs: inputs [N, ...].
        labels: classes [N].
        threat_model: threat model with the bounds.

    Raises:
        DataError: unless the inputs are finite floating-point numbers within the bounds, N at least 1, and the labels
            int64 on the same device.
    """
    if inputs.dim() < 2 or inputs.numel() == 0 or not inputs.is_floating_point():
        raise DataError(
            f"the inputs are {inputs.dtype} of shape {tuple(inputs.shape)}: give floats of shape [N, ...], N at least 1"
        )
    if labels.dtype != torch.int64 or labels.shape != inputs.shape[:1] or labels.device != inputs.device:
        raise DataError(
            f"the labels are {labels.dtype} of shape {tuple(labels.shape)} on {labels.device}: give one int64 class "
            f"for each of the {len(inputs)} inputs, on their device {inputs.device}"
        )
    # Inputs that are read by reference may not fit in memory together.
    for part in inputs.split(_CHUNK) if isinstance(inputs, Deferred) else (inputs,):
        _check_values(part, threat_model)


def _check_values(inputs: Tensor, threat_model: ThreatModel) -> None:
    # aminmax propagates NaN, so these two numbers show whether all are finite.
    smallest, largest = torch.stack(inputs.aminmax()).tolist()  # both at once: a GPU is waited for once
    if not (math.isfinite(smallest) and math.isfinite(largest)):
        (broken,) = torch.where(~inputs.flatten(1).isfinite().all(1))
        raise DataError(
            f"{len(broken)} of {len(inputs)} inputs hold NaN or infinity, the first at index {int(broken[0])}: "
            "remove or repair them"
        )
    slack = threat_model.slack(inputs.dtype)
    if not (threat_model.lower - slack <= smallest and largest <= threat_model.upper + slack):
        raise DataError(
            f"the inputs range over [{smallest:g}, {largest:g}] and the threat model allows [{threat_model.lower:g}, "
            f"{threat_model.upper:g}]: scale the inputs into it and let the classifier normalise them, or set its "
            "lower and upper"
        )


def checked_outputs(classifier: Classifier, inputs: Tensor, labels: Tensor | None) -> Tensor:
    """Run a classifier and check its outputs.

    Args:
        classifier: classifier to run.
        inputs: inputs [N, ...].
        labels: classes [N]; None where they are known to be classes of the classifier. Their check waits for a GPU.

    Returns:
        Outputs [N, C].

    Raises:
        DataError: if the classifier does not take the inputs, does not return one row an input and at least two
            columns, or if labels are outside its classes.
    """
    try:
        outputs: Any = classifier(inputs)
    except torch.OutOfMemoryError:  # a RuntimeError that says nothing about the inputs
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"the classifier does not take inputs of shape {tuple(inputs.shape)} and dtype {inputs.dtype}: {error}"
        ) from error
    if not isinstance(outputs, Tensor) or outputs.dim() != 2 or len(outputs) != len(inputs) or outputs.shape[1] < 2:
        raise DataError(
            f"the classifier gave {described(outputs)} for {len(inputs)} inputs: "
            "give one row an input and one column a class, two classes or more; for a single logit z, columns 0 and z"
        )
    if labels is not None:
        smallest, largest = torch.stack(labels.aminmax()).tolist()
        if smallest < 0 or largest >= outputs.shape[1]:
            raise DataError(
                f"the labels range over {smallest}..{largest}, and the classifier's classes are "
                f"0..{outputs.shape[1] - 1}: give labels in this range"
            )
    checked: Tensor = outputs
    return checked


def _of_class(outputs: Tensor, classes: Tensor) -> Tensor:
    """Select the output [N] of one class for each example."""
    return outputs.gather(1, classes[:, None]).squeeze(1)


def check_counts(**counts: int) -> None:
    """Check counts of steps, restarts, targets, draws or queries.

    Args:
        **counts: counts by the name of their argument.

    Raises:
        UsageError: for a count below 1.
    """
    for name, count in counts.items():
        if not count >= 1:
            raise UsageError(f"{name} is {count}: give at least 1")
