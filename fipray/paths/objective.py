"""What improves along a path while the function stays: the secondary objective."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from fipray.border import described, shaped_like
from fipray.errors import UsageError
from fipray.networks import Network
from fipray.paths.batch import Batch
from fipray.paths.problem import Problem

Projection = Callable[[Tensor], Tensor]


@runtime_checkable
class Objective(Protocol):
    """A secondary objective, minimised. Its decrease is the gain.

    The gradient is taken through `value`; an objective that is not differentiable, or that knows better, says its own
    (`GradientEstimate`). The outcome of a path compares its values at the start and at the end, unless it has an
    attribute `compared = False`.
    """

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        """The objective at `weights` [P] on a batch of inputs: a scalar."""
        ...


@runtime_checkable
class GradientEstimate(Protocol):
    """An objective that says its own gradient, exact or estimated."""

    def gradient(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        """`l` [P] at `weights` [P] on a batch; what is random in it begins at `batch.seed`."""
        ...


@dataclass(frozen=True)
class Asked:
    """inputs: [M, ...]. value: outputs [M, C] on them -> the objective, a scalar."""

    inputs: Tensor
    value: Callable[[Tensor], Tensor]


@runtime_checkable
class OfOutputs(Protocol):
    """An objective that asks nothing of the weights but outputs, so that one pass through the network can serve it and
    what else is asked.
    """

    def asks(self, problem: Problem, weights: Tensor, batch: Batch) -> Asked:
        """On which inputs, and what the objective is of the outputs there. The inputs may depend on the `weights` [P],
        but no gradient is taken through that.
        """
        ...


@runtime_checkable
class Restriction(Protocol):
    """An objective that also says where the weights must lie, ever more tightly as the path goes on."""

    def restrict(self, problem: Problem, weights: Tensor, progress: float, batch: Batch) -> Tensor:
        """The nearest weights [P] that are allowed once `progress`, 0..1, of the path is walked; what is near is judged
        on a batch of inputs, where that is by the function. `weights` themselves where they are allowed.
        """
        ...

    def tangent(self, problem: Problem, weights: Tensor) -> Projection:
        """The projection on those vectors [P] along which `weights` stay allowed."""
        ...


@runtime_checkable
class ChecksNetwork(Protocol):
    """An objective that is not for all networks."""

    def check(self, network: Network) -> None:
        """Raise NetworkError for a network that it is not for."""
        ...


@runtime_checkable
class Milestones(Protocol):
    """An objective that reaches something on the way."""

    @property
    def milestones(self) -> tuple[tuple[float, float], ...]:
        """Pairs: a share, 0..1, of the path, and the sparsity that is reached with it."""
        ...


@runtime_checkable
class Learns(Protocol):
    """An objective that looks at tasks."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the problem's tasks that it cannot do without."""
        ...


@runtime_checkable
class Sum(Protocol):
    """An objective that is made of others."""

    @property
    def summands(self) -> tuple[Objective, ...]:
        """Those whose value counts."""
        ...


def is_compared(objective: Objective) -> bool:
    """Whether a lower value at the end of a path than at its start is an improvement, as it is unless an objective says
    `compared = False`.
    """
    if isinstance(objective, Sum):
        return all(map(is_compared, objective.summands))
    return bool(getattr(objective, "compared", True))


def only_descended(objective: Objective) -> Objective | None:
    """The objective, or the part of a sum, that acts through its gradient alone; None where all of it restricts."""
    if isinstance(objective, Sum):
        return next((found for found in map(only_descended, objective.summands) if found is not None), None)
    return None if isinstance(objective, Restriction) else objective


def tasks_of(objective: Objective) -> tuple[str, ...]:
    return objective.tasks if isinstance(objective, Learns) else ()


def milestones(objective: Objective) -> tuple[tuple[float, float], ...]:
    return objective.milestones if isinstance(objective, Milestones) else ()


def check_network(objective: Objective, network: Network) -> None:
    """Raise NetworkError for a network that the objective is not for."""
    if isinstance(objective, ChecksNetwork):
        objective.check(network)


def restrict(objective: Objective, problem: Problem, weights: Tensor, progress: float, batch: Batch) -> Tensor:
    """The nearest weights [P] that are allowed; those that may not change (`Network.only`) are as they were."""
    if not isinstance(objective, Restriction):
        return weights
    found = objective.restrict(problem, weights, progress, batch)
    allowed = cast(Tensor, shaped_like(found, weights, f"{type(objective).__name__}.restrict()"))
    return weights if allowed is weights else problem.network.held(allowed, weights)


def tangent(objective: Objective, problem: Problem, weights: Tensor) -> Projection:
    """The projection on the vectors [P] along which weights may move: those of a restriction, and of `Network.only`."""
    along = objective.tangent(problem, weights) if isinstance(objective, Restriction) else everything
    mask = problem.network.mask
    if mask is None:
        return along
    return mask.mul if along is everything else lambda vector: along(vector * mask) * mask


def everything(vector: Tensor) -> Tensor:
    """The projection on all vectors, where nothing is restricted."""
    return vector


def value(objective: Objective, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
    """The objective at `weights`. Raises UsageError where its `value` is no scalar."""
    with unchanged(f"{type(objective).__name__}.value()", of_call(problem, weights, batch)):
        found = objective.value(problem, weights, batch)
    return scalar(found, objective)


def of_call(problem: Problem, weights: Tensor, batch: Batch) -> dict[str, Tensor]:
    """The tensors that an objective is given, by what they are."""
    return {"the weights": weights, "the start's weights": problem.start, "the inputs": batch.inputs}


@contextmanager
def unchanged(who: str, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Raise UsageError where one of the tensors, by what it is, is written to meanwhile."""
    before = [_version(tensor) for tensor in tensors.values()]
    yield
    written = [what for (what, one), version in zip(tensors.items(), before, strict=True) if _version(one) != version]
    if written:
        raise UsageError(
            f"{who} wrote into {' and '.join(written)} in place, and the path goes on from there: write into a "
            "clone(), and use mul, add, clamp for mul_, add_, clamp_"
        )


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def scalar(found: Any, objective: Objective) -> Tensor:
    """What an objective's `value` returned. Raises UsageError where that is no scalar."""
    if not isinstance(found, Tensor) or found.shape != () or not found.is_floating_point():
        raise UsageError(
            f"{type(objective).__name__}.value() returned {described(found)}; expected a scalar tensor, computed in "
            "torch from the weights, such as a mean() or a sum()"
        )
    return found


def gradient(objective: Objective, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
    """`l` [P], the objective's gradient at `weights`. Raises UsageError where there is none."""
    name = type(objective).__name__
    if isinstance(objective, GradientEstimate):
        with unchanged(f"{name}.gradient()", of_call(problem, weights, batch)):
            found = objective.gradient(problem, weights.detach(), batch)
        return cast(Tensor, shaped_like(found, weights, f"{name}.gradient()"))
    moving = weights.detach().requires_grad_(True)
    with torch.enable_grad():
        height = value(objective, problem, moving, batch)
        slopes = torch.autograd.grad(height, moving, allow_unused=True) if height.requires_grad else (None,)
    if slopes[0] is None:
        raise UsageError(
            f"{name}.value() returned a tensor without a gradient by the weights: compute it from `weights` in torch, "
            "without detach(), no_grad() or numpy, or give the objective a method gradient()"
        )
    return slopes[0]
