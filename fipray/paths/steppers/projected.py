"""The step that changes no output, to first order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.geometry import NullSpace, StreamedMetric, solve_in_sample_space
from fipray.paths.problem import Problem
from fipray.paths.stepper import Proposal, Situation, State, promised
from fipray.registry import spec

LARGEST_JACOBIAN = 2**29  # numbers, 2 GiB in float32: what an exact solve may have to hold where layers do not tell J


@spec("projected")
@checked
@dataclass(frozen=True)
class Projected:
    """Down the objective within the null space of J, and back to the function by the shortest way: damping m -> 0.

    With t = radius / |l|, slope l and drift `e = s(w) - s(w0)` on the batch:

        d = -t l + J^+ (t J l - e)

    so that `J d = -e`: to first order every output of the batch is back where it was. Where the batch has at most
    `dense` outputs N C the pseudo-inverse is exact, through the Gram matrix; for larger ones, up to the whole anchor
    set (`batch_size` of all anchors), it is iterated to the relative residual `tolerance` by accelerated alternating
    projections (`NullSpace`), about two gradients of the batch an iteration.

    A direction that hardly moves any output counts as null when its squared effect is below the rounding of the largest
    one; correcting along it would take a step without bounds.
    """

    dense: int = 1500
    iterations: int = 300
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if not (self.iterations >= 1 and self.dense >= 0 and 0 < self.tolerance < 1):
            raise UsageError(
                "iterations are at least 1, dense at least 0, tolerance in 0..1; "
                f"{self.iterations}, {self.dense} and {self.tolerance} were given"
            )

    def begin(self, problem: Problem) -> State:
        return {}

    def propose(self, situation: Situation, state: State) -> Proposal:
        descent = situation.descent
        problem, batch = situation.problem, situation.batch
        size = batch.target.numel()
        if size <= self.dense and size * len(descent) <= LARGEST_JACOBIAN:
            return promised(situation, descent + self._exact(situation, descent))
        if not batch.is_plain:
            raise UsageError(
                f"of several kept quantities Projected solves for at most dense={self.dense} numbers a batch, and "
                f"this one has {size}: take a smaller batch_size, or Natural"
            )
        allowed = situation.allowed if situation.restricted else None
        space = NullSpace(problem.network, situation.weights, batch.inputs, problem.geometry, allowed=allowed)
        embedded = problem.geometry.embed(problem.network.outputs(situation.weights, batch.inputs))
        target = space.j(descent) + embedded - batch.reference
        found = space.least_norm(target, iterations=self.iterations, tolerance=self.tolerance)
        return promised(situation, descent - found.vector)

    def _exact(self, situation: Situation, descent: Tensor) -> Tensor:
        problem, batch = situation.problem, situation.batch
        metric = problem.metric(situation.weights, batch)
        target = -metric.j(descent) - (metric.embedded - batch.target)
        assert not isinstance(metric, StreamedMetric)  # nothing is streamed without a chunk
        if situation.restricted:
            rows = torch.stack([situation.allowed(row) for row in metric.jacobian()])
            gram = rows @ rows.T
        else:
            gram = metric.gram()
        answer = solve_in_sample_space(gram, target.flatten(), shift=0.0).view_as(target)
        return situation.allowed(metric.jt(answer))
