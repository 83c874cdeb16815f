"""Another network."""

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
    """Walk to the weights `w1` of another network of the same architecture.

    `value = |w - w1|^2 / |w0 - w1|^2`: 1 at the start, 0 where the other network is reached. Under a metric that keeps
    nothing the path is the straight line; under the network's it bends round what the straight line would destroy.

    weights: `w1` [P]; None is the first of the problem's `others`, as a study names it.
    """

    weights: Tensor | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Toward) and self.weights is other.weights

    def __hash__(self) -> int:
        return hash((Toward, id(self.weights)))

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        goal = self.goal(problem)
        whole = (problem.start - goal).square().sum()
        if not math.isfinite(float(whole)):
            raise UsageError("the weights of the network to walk to hold NaN or infinity: name another")
        if float(whole) == 0:
            raise UsageError("the network to walk to is the start itself, so there is no way to go: name another")
        return (weights - goal).square().sum() / whole

    def goal(self, problem: Problem) -> Tensor:
        """`w1` [P], like the start in dtype and device. Raises UsageError where there is none of its length."""
        if self.weights is None and not problem.others:
            raise UsageError(
                "Toward() walks to the first of the other networks, and there is none: give others, or Toward(weights)"
            )
        goal = problem.others[0] if self.weights is None else self.weights
        if goal.shape != problem.start.shape:
            raise UsageError(
                f"a network of {problem.start.numel()} weights cannot walk to weights of shape {tuple(goal.shape)}: "
                "both networks must have one architecture"
            )
        return torch.as_tensor(goal.detach(), dtype=problem.start.dtype, device=problem.start.device)
