"""Straight approach to another network in weight space."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.paths.batch import Batch
from fipray.paths.problem import Problem
from fipray.registry import spec


@spec("toward")
@checked
@dataclass(frozen=True, eq=False)
class Toward:
    """Squared distance in weight space to another network of the same architecture.

    `value = |w - w1|^2 / |w0 - w1|^2`: 1 at the base network, 0 where the other network is reached. Under a metric that
    keeps nothing the path is the straight line; under the network's own it bends around what the line would destroy.

    Cost: a few vector operations on [P]; no pass through the network.

    Needs: the other network's weights; no labels.

    Source: none in particular; without a metric it is linear interpolation of weights.

    Args:
        weights: `w1` [P]; None takes the first of the problem's `others`, as studies do. Compared by identity.
    """

    weights: Tensor | None = None

    # comparing tensors has no single truth value, so two are equal only as the same object
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Toward) and self.weights is other.weights

    def __hash__(self) -> int:
        return hash((Toward, id(self.weights)))

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        goal = self.goal(problem)
        squared_length = (problem.start - goal).square().sum()
        length = float(squared_length)  # a GPU is waited for once
        if not math.isfinite(length):
            raise UsageError("the weights of the other network hold NaN or infinity: give another network")
        if length == 0:
            raise UsageError(
                "the other network is the base network itself, so there is no path between them: give another network"
            )
        return (weights - goal).square().sum() / squared_length

    def goal(self, problem: Problem) -> Tensor:
        """Weights of the other network.

        Args:
            problem: supplies the base network and, without `weights`, the other one.

        Returns:
            `w1` [P], in the base network's dtype and on its device.

        Raises:
            UsageError: where there is no other network, or one with another number of weights.
        """
        if self.weights is None and not problem.others:
            raise UsageError(
                "Toward() takes the first of the problem's other networks, and there is none: give others, or "
                "Toward(weights)"
            )
        goal = problem.others[0] if self.weights is None else self.weights
        if goal.shape != problem.start.shape:
            raise UsageError(
                f"the base network has {problem.start.numel()} weights, and the other network's have shape "
                f"{tuple(goal.shape)}: both must have the same architecture"
            )
        return torch.as_tensor(goal.detach(), dtype=problem.start.dtype, device=problem.start.device)
