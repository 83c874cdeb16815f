"""Calls of an objective and of other user code, with checks on results and arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from fipray.border import described, shaped_like
from fipray.errors import UsageError
from fipray.paths.batch import Batch
from fipray.paths.objective import GradientEstimate, Masked, Objective, Projection, Restriction
from fipray.paths.problem import Problem


def restrict(objective: Objective, problem: Problem, weights: Tensor, progress: float, batch: Batch) -> Tensor:
    """Apply the restriction of an objective, where it has one.

    Args:
        objective: secondary objective.
        problem: problem of the path.
        weights: weights [P].
        progress: fraction of the path that is completed, 0..1.
        batch: inputs of the step.

    Returns:
        The nearest allowed weights [P], `weights` itself where they are allowed. Weights that may not change
        (`Network.only`) are bit for bit as before.

    Raises:
        UsageError: where the restriction returns another shape, dtype or device.
    """
    if not isinstance(objective, Restriction):
        return weights
    found = problem.network.fitting(lambda: objective.restrict(problem, weights, progress, batch), len(batch))
    allowed = cast(Tensor, shaped_like(found, weights, f"{type(objective).__name__}.restrict()"))
    # The same tensor where nothing changed: `walk` recognises by identity that there is no new point.
    return weights if allowed is weights else problem.network.held(allowed, weights)


def tangent(objective: Objective, problem: Problem, weights: Tensor) -> Projection:
    """Projection on the directions in which weights may move, by a restriction and by `Network.only`.

    Args:
        objective: secondary objective.
        problem: problem of the path.
        weights: weights [P].

    Returns:
        A projection of vectors [P]; `everything` itself where nothing is restricted.
    """
    along = objective.tangent(problem, weights) if isinstance(objective, Restriction) else everything
    mask = problem.network.mask
    if mask is None:
        return along
    if along is everything:
        return Masked(mask)
    # Masked on both sides, which keeps the projection symmetric.
    return Masked(along.mask * mask) if isinstance(along, Masked) else lambda vector: along(vector * mask) * mask


def everything(vector: Tensor) -> Tensor:
    """Identity, as the projection where nothing is restricted.

    Args:
        vector: [P].

    Returns:
        The same vector.
    """
    return vector


def value(objective: Objective, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
    """Call `Objective.value` and check its result.

    Args:
        objective: secondary objective.
        problem: problem of the path.
        weights: weights [P].
        batch: inputs of the step.

    Returns:
        A scalar.

    Raises:
        UsageError: where the result is no scalar tensor, or an argument was written to.
    """
    with unchanged(f"{type(objective).__name__}.value()", of_call(problem, weights, batch)):
        found = problem.network.fitting(lambda: objective.value(problem, weights, batch), len(batch))
    return scalar(found, objective)


def of_call(problem: Problem, weights: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Tensors that an objective receives, by descriptions for messages.

    Args:
        problem: problem of the path.
        weights: weights [P].
        batch: inputs of the step.

    Returns:
        Tensors by their descriptions.
    """
    return {"the weights": weights, "the start's weights": problem.start, "the inputs": batch.inputs}


@contextmanager
def unchanged(who: str, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Guard tensors against writes by user code within a context.

    Args:
        who: description of the user code, such as "probe 'size'".
        tensors: tensors by descriptions for the message.

    Yields:
        Nothing.

    Raises:
        UsageError: where one of the tensors was written to in place.
    """
    # Autograd counts in-place writes in `_version`: comparing it costs nothing, unlike comparing values.
    before = [_version(tensor) for tensor in tensors.values()]
    yield
    written = [what for (what, one), version in zip(tensors.items(), before, strict=True) if _version(one) != version]
    if written:
        raise UsageError(
            f"{who} wrote into {' and '.join(written)} in place, which would change the path: write into a clone(), "
            "and use mul, add, clamp instead of mul_, add_, clamp_"
        )


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # inference tensors have no version counter


def scalar(found: Any, objective: Objective) -> Tensor:
    """Check the result of `Objective.value`.

    Args:
        found: the result.
        objective: objective that returned it.

    Returns:
        The result, a scalar floating-point tensor.

    Raises:
        UsageError: where it is anything else.
    """
    if not isinstance(found, Tensor) or found.shape != () or not found.is_floating_point():
        raise UsageError(
            f"{type(objective).__name__}.value() returned {described(found)}; expected a scalar tensor, computed in "
            "torch from the weights, such as a mean() or a sum()"
        )
    return found


def gradient(objective: Objective, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
    """Compute the gradient of an objective, by its own method or by autograd.

    Args:
        objective: secondary objective.
        problem: problem of the path.
        weights: weights [P]; a graph they carry is ignored.
        batch: inputs of the step.

    Returns:
        The gradient l [P].

    Raises:
        UsageError: where the value does not depend on the weights by a graph, or a result has the wrong type.
    """
    name = type(objective).__name__
    if isinstance(objective, GradientEstimate):
        with unchanged(f"{name}.gradient()", of_call(problem, weights, batch)):
            estimate = problem.network.fitting(lambda: objective.gradient(problem, weights.detach(), batch), len(batch))
        return cast(Tensor, shaped_like(estimate, weights, f"{name}.gradient()"))

    def differentiated() -> Tensor | None:
        # A new leaf: gradients stop here, and the caller's tensor does not begin to require them.
        moving = weights.detach().requires_grad_(True)
        # Callers may be under no_grad.
        with torch.enable_grad():
            found = value(objective, problem, moving, batch)
            # Unused weights give None, and below a message about the objective instead of torch's own.
            return torch.autograd.grad(found, moving, allow_unused=True)[0] if found.requires_grad else None

    slope = problem.network.fitting(differentiated, len(batch))
    if slope is None:
        raise UsageError(
            f"{name}.value() returned a tensor without a gradient by the weights: compute it from `weights` in torch, "
            "without detach(), no_grad() or numpy, or give the objective a method gradient()"
        )
    return slope
