"""The baselines: the scheme of the code released with the paper, and no step at all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from fipray.border import checked
from fipray.errors import UsageError
from fipray.paths.calls import gradient
from fipray.paths.problem import Problem
from fipray.paths.stepper import Proposal, Situation, State, needs_outputs_alone
from fipray.registry import spec


@spec("published")
@checked
@dataclass(frozen=True)
class Published:
    """The scheme of the code released with the paper, the baseline: `w <- w - length u / |u|`.

    `u = grad D_BC(w) + penalty grad objective(w)`, where
    `D_BC = sum_n -log sum_k sqrt(p_k(x_n; w) p_k(x_n; w0) + 1e-8)` is the Bhattacharyya distance to the start's class
    probabilities, summed over the batch. Classification only: the output geometry must be Fisher-Rao.
    """

    length: float = 0.01
    penalty: float = 0.1

    def __post_init__(self) -> None:
        if not self.length > 0:
            raise UsageError(f"a step has a length above 0; {self.length} was given")
        if not 0 <= self.penalty < math.inf:
            raise UsageError(f"penalty is at least 0 and finite; {self.penalty} was given")

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
            roots = problem.geometry.embed(problem.network(moving, batch.inputs)) / 2
            overlap = (roots.square() * (batch.reference / 2).square() + 1e-8).sqrt().sum(1)
            slope = torch.autograd.grad(-overlap.log().sum(), moving)[0]
        slope = slope + self.penalty * gradient(situation.objective, problem, situation.weights, batch)
        if (mask := problem.network.mask) is not None:
            slope = slope * mask
        length = min(self.length, situation.radius)
        return Proposal(-length * slope / torch.linalg.vector_norm(slope).clamp(min=1e-30), 0.0)


@spec("one_shot")
@checked
@dataclass(frozen=True)
class OneShot:
    """No step at all: only a restriction acts. With `Sparsify` and one step this is one-shot magnitude pruning."""

    ignores_objective: ClassVar[str] = "it takes no step"

    def begin(self, problem: Problem) -> State:
        return {}

    def propose(self, situation: Situation, state: State) -> Proposal:
        return Proposal(torch.zeros_like(situation.weights), 0.0)
