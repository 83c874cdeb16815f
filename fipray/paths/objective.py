"""What improves along a path while the function stays: the secondary objective."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fipray.paths.problem import Batch, Problem


class Objective(Protocol):
    """A secondary objective, minimised. Its decrease is the gain.

    The gradient is taken through `value`; an objective that is not differentiable, or that knows better, says its own
    (`GradientEstimate`).
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


@runtime_checkable
class Restriction(Protocol):
    """An objective that also says where the weights must lie, ever more tightly as the path goes on."""

    def restrict(self, problem: Problem, weights: Tensor, progress: float) -> Tensor:
        """The nearest weights [P] that are allowed once `progress`, 0..1, of the path is walked."""
        ...

    def tangent(self, problem: Problem, weights: Tensor, vector: Tensor) -> Tensor:
        """The part of `vector` [P] along which `weights` stay allowed."""
        ...


def restrict(objective: Objective, problem: Problem, weights: Tensor, progress: float) -> Tensor:
    return objective.restrict(problem, weights, progress) if isinstance(objective, Restriction) else weights


def tangent(objective: Objective, problem: Problem, weights: Tensor, vector: Tensor) -> Tensor:
    return objective.tangent(problem, weights, vector) if isinstance(objective, Restriction) else vector


def gradient(objective: Objective, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
    """`l` [P], the objective's gradient at `weights`."""
    if isinstance(objective, GradientEstimate):
        return objective.gradient(problem, weights.detach(), batch)
    moving = weights.detach().requires_grad_(True)
    with torch.enable_grad():
        return torch.autograd.grad(objective.value(problem, moving, batch), moving)[0]
