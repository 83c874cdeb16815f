"""Projected stepper: the step that changes no output to first order."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.geometry import NullSpace
from fipray.paths.problem import Problem
from fipray.paths.state import State
from fipray.paths.stepper import Proposal, Situation, promised
from fipray.paths.steppers.sample_space import exact_correction
from fipray.registry import spec

# Entries of J, 2 GiB in float32: an exact solve holds all of J where layers do not give the Gram matrix without it.
LARGEST_JACOBIAN = 2**29


@spec("projected")
@checked
@dataclass(frozen=True)
class Projected:
    """Gradient descent on the objective within the null space of J, with the shortest correction of the function.

    With `t = radius / |l|`, slope l and change of the embedded outputs `e = s(w) - s(w0)` on the batch:

        d = -t l + J^+ (t J l - e)

    so that `J d = -e`: to first order every output of the batch returns to its value at the base network. It is the
    limit of `Natural` for damping 0. A direction counts as null if its squared effect on the outputs is below the
    rounding of the largest one; correcting along it would take a step of unbounded length.

    Cost per step: the objective's gradient, and up to `dense` outputs N C per batch the Gram matrix `J J^T` and its
    factor; above, about two gradients of the batch per iteration of accelerated alternating projections
    (`fipray.geometry.NullSpace`), also for the whole anchor set (`batch_size` of all anchors).

    Needs: nothing beyond the batch. With kept quantities other than the outputs on the anchors, batches of at most
    `dense` numbers.

    Source: the limit m -> 0 of Raghavan & Thomson 2022, arXiv 2205.00334.

    Args:
        dense: largest number of outputs N C of a batch for which the pseudo-inverse is exact, at least 0.
        iterations: most iterations of the alternating projections, at least 1.
        tolerance: relative residual at which they stop, above 0 and below 1.

    Raises:
        UsageError: for a setting out of range.
    """

    dense: int = 1500
    iterations: int = 300
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if not (self.iterations >= 1 and self.dense >= 0 and 0 < self.tolerance < 1):
            raise UsageError(
                "iterations must be at least 1, dense at least 0, and tolerance above 0 and below 1; "
                f"iterations={self.iterations}, dense={self.dense} and tolerance={self.tolerance} were given"
            )

    def begin(self, problem: Problem) -> State:
        return {}

    def propose(self, situation: Situation, state: State) -> Proposal:
        descent = situation.descent
        problem, batch = situation.problem, situation.batch
        size = batch.target.numel()
        # the second bound holds for large networks, where few outputs already make a Jacobian that fills memory
        if size <= self.dense and size * len(descent) <= LARGEST_JACOBIAN:
            return promised(situation, descent + self._exact(situation, descent))
        if not batch.is_plain:
            raise UsageError(
                "with kept quantities other than the outputs on the anchors, Projected solves for at most "
                f"dense={self.dense} numbers per batch, and this batch has {size}: set a smaller batch_size, or use "
                "Natural"
            )
        allowed = situation.allowed if situation.restricted else None
        chunk = problem.network.micro_batch or 1000
        space = NullSpace(
            problem.network, situation.weights, batch.inputs, problem.geometry, allowed=allowed, chunk=chunk
        )
        embedded = problem.geometry.embed(problem.network.outputs(situation.weights, batch.inputs))
        # one solve for both: the pseudo-inverse is linear, and each solve costs hundreds of products
        target = space.j(descent) + embedded - batch.reference
        # to first order, descent - d with J d = J descent + e returns every output to its reference
        found = space.least_norm(target, iterations=self.iterations, tolerance=self.tolerance)
        return promised(situation, descent - found.vector)

    def _exact(self, situation: Situation, descent: Tensor) -> Tensor:
        problem, batch = situation.problem, situation.batch
        metric = problem.metric(situation.weights, batch)
        target = -metric.j(descent) - (metric.embedded - batch.target)
        return exact_correction(metric, situation, target, shift=0.0)
