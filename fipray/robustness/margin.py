"""How far a classifier is from calling an example something else, and what it may be asked at all.

With outputs z [C], logits or log-probabilities, the margin is

    m(x) = z_y(x) - log sum_{k != y} exp z_k(x)

and cross-entropy is log(1 + exp(-m)), a falling function of m: both have the same maximisers and the same directions.
The gradient of cross-entropy, however, carries the factor 1 - p_y, which is exactly zero in float32 as soon as the
logits are some 17 apart: most examples of a well-trained network then look robust because the attack stands still. The
margin's gradient does not vanish, so that every attack here descends the margin.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fipray.border import described
from fipray.errors import DataError, UsageError
from fipray.robustness.threat_models import ThreatModel

Classifier = Callable[[Tensor], Tensor]
"""inputs [N, ...] -> logits or log-probabilities [N, C], C >= 2; deterministic, each example judged by itself."""


def margins(outputs: Tensor, labels: Tensor, rivals: Tensor | None = None) -> Tensor:
    """`z_y - log sum_{k != y} exp z_k` [N] of outputs [N, C], labels [N]; with `rivals` k [N] alone: `z_y - z_k`."""
    if rivals is None:
        others = outputs.scatter(1, labels[:, None], -math.inf).logsumexp(1)
    else:
        others = _of_class(outputs, rivals)
    return _of_class(outputs, labels) - others


def correct(outputs: Tensor, labels: Tensor) -> Tensor:
    """Whether each example [N] gets its label; outputs [N, C] with a NaN are wrong, whatever the largest is."""
    return (outputs.argmax(1) == labels) & ~outputs.isnan().any(1)


def margin_gradient(
    classifier: Classifier, inputs: Tensor, labels: Tensor, rivals: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs [N, C], margins [N] as of `margins`, and the gradient [N, ...] of each example's margin in its input.

    Raises UsageError where autograd sees no way from the outputs to the inputs: every attack would seem to fail.
    """
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_()
        outputs = checked_outputs(classifier, inputs, labels)
        margin = margins(outputs, labels, rivals)
        # Outputs may require a gradient for the sake of the classifier's weights alone: then the inputs have None.
        found = torch.autograd.grad(margin.sum(), inputs, allow_unused=True) if margin.requires_grad else (None,)
    if found[0] is None:
        raise UsageError(
            "the classifier's outputs carry no gradient back to its inputs, which this attack needs: "
            "let it compute them in torch, without detach(), no_grad() or inference_mode()"
        )
    return outputs.detach(), margin.detach(), found[0]


def check_examples(inputs: Tensor, labels: Tensor, threat_model: ThreatModel) -> None:
    """Raises DataError unless inputs [N, ...] are finite floats within the bounds, and labels int64 [N] beside them.

    Inputs may leave the bounds by rounding, as normalised ones do: by as much as `threat_model.contains` lets pass.
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
    smallest, largest = (float(value) for value in inputs.aminmax())
    if not (math.isfinite(smallest) and math.isfinite(largest)):
        (broken,) = torch.where(~inputs.flatten(1).isfinite().all(1))
        raise DataError(
            f"{len(broken)} of {len(inputs)} inputs hold NaN or infinity, the first at index {int(broken[0])}: "
            "remove or repair them"
        )
    if not threat_model.contains(inputs, inputs).all():
        raise DataError(
            f"the inputs range over [{smallest:g}, {largest:g}] and the threat model allows [{threat_model.lower:g}, "
            f"{threat_model.upper:g}]: scale the inputs into it and let the classifier normalise them, or set its "
            "lower and upper"
        )


def checked_outputs(classifier: Classifier, inputs: Tensor, labels: Tensor) -> Tensor:
    """classifier(inputs) [N, C]. Raises DataError where that is no such matrix, or labels are outside its classes."""
    try:
        outputs: Any = classifier(inputs)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"the classifier does not take inputs of shape {tuple(inputs.shape)} and dtype {inputs.dtype}: {error}"
        ) from error
    if not isinstance(outputs, Tensor) or outputs.dim() != 2 or len(outputs) != len(inputs) or outputs.shape[1] < 2:
        raise DataError(
            f"the classifier gave {described(outputs)} for {len(inputs)} inputs: "
            "give one row an input and one column a class, two classes or more; of a single logit z, columns 0 and z"
        )
    smallest, largest = (int(value) for value in labels.aminmax())
    if smallest < 0 or largest >= outputs.shape[1]:
        raise DataError(
            f"the labels range over {smallest}..{largest}, and the classifier's classes are 0..{outputs.shape[1] - 1}: "
            "give labels of these"
        )
    checked: Tensor = outputs
    return checked


def _of_class(outputs: Tensor, classes: Tensor) -> Tensor:
    """The output [N] of one class an example."""
    return outputs.gather(1, classes[:, None]).squeeze(1)


def check_counts(**counts: int) -> None:
    """Raises UsageError for a count of steps, restarts, targets, draws or queries below 1."""
    for name, count in counts.items():
        if not count >= 1:
            raise UsageError(f"{name} is {count}: give at least 1")
