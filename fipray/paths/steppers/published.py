"""Baselines: the scheme of the code released with the paper, and one-shot pruning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from fipray.border import checked
from fipray.errors import UsageError
from fipray.paths.calls import gradient
from fipray.paths.problem import Problem
from fipray.paths.state import State
from fipray.paths.stepper import Proposal, Situation, needs_outputs_alone
from fipray.registry import spec


@spec("published")
@checked
@dataclass(frozen=True)
class Published:
    """Scheme of the code released with the paper, as a baseline.

    `w <- w - length u / |u|` with `u = grad D_BC(w) + penalty grad objective(w)`, where
    `D_BC = sum_n -log sum_k sqrt(p_k(x_n; w) p_k(x_n; w0) + 1e-8)` is the Bhattacharyya distance from the base
    network's class probabilities, summed over the batch. With `Sparsify` the objective's gradient is `w - h(w)`.

    Cost per step: one gradient of the batch and the objective's gradient.

    Needs: classes (FisherRao outputs), and outputs on the anchors as the only kept quantity. It does not follow the
    tangent of a restriction: zeros may grow again between two steps.

    Source: code of Raghavan & Thomson 2022, arXiv 2205.00334, written from its equations.

    Args:
        length: length of every step, above 0, in units of the weights; the radius limits it.
        penalty: weight of the objective, at least 0. 0 ignores it except for its restriction.

    Raises:
        UsageError: for a setting out of range.
    """

    length: float = 0.01
    penalty: float = 0.1

    def __post_init__(self) -> None:
        if not self.length > 0:
            raise UsageError(f"length must be above 0; {self.length} was given")
        if not 0 <= self.penalty < math.inf:
            raise UsageError(f"penalty must be at least 0 and finite; {self.penalty} was given")

    @property
    def ignores_objective(self) -> str:
        return "" if self.penalty > 0 else "its penalty is 0"

    def begin(self, problem: Problem) -> State:
        needs_outputs_alone(problem, type(self).__name__)
        return {}

    def propose(self, situation: Situation, state: State) -> Proposal:
        problem, batch = situation.problem, situation.batch
        moving = situation.weights.detach().requires_grad_(True)
        with torch.enable_grad():
            # embedded outputs are 2 sqrt(p)
            roots = problem.geometry.embed(problem.network(moving, batch.inputs)) / 2
            # the 1e-8 is that of the published code; without it the root has an infinite gradient at probability 0
            overlap = (roots.square() * (batch.reference / 2).square() + 1e-8).sqrt().sum(1)
            slope = torch.autograd.grad(-overlap.log().sum(), moving)[0]
        slope = slope + self.penalty * gradient(situation.objective, problem, situation.weights, batch)
        # only weights that may change: the length is that of the step they take
        if (mask := problem.network.mask) is not None:
            slope = slope * mask
        # the clamp turns a slope of 0 into a step of 0
        length = min(self.length, situation.radius)
        return Proposal(-length * slope / torch.linalg.vector_norm(slope).clamp(min=1e-30), 0.0)


@spec("one_shot")
@checked
@dataclass(frozen=True)
class OneShot:
    """Stepper that takes no step, so that only a restriction acts.

    With `Sparsify` and one step this is one-shot magnitude pruning. Costs nothing and needs nothing.
    """

    ignores_objective: ClassVar[str] = "it takes no step"

    def begin(self, problem: Problem) -> State:
        return {}

    def propose(self, situation: Situation, state: State) -> Proposal:
        return Proposal(torch.zeros_like(situation.weights), 0.0)
