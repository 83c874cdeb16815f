"""The damped step in the function's own metric."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.geometry import Metric, StackedMetric, StreamedMetric, conjugate_gradients, solve_in_sample_space
from fipray.geometry.metric import Precision
from fipray.paths.problem import Problem
from fipray.paths.stepper import Proposal, Situation, State, promised
from fipray.registry import spec

AnyMetric = Metric | StreamedMetric | StackedMetric


@spec("natural")
@checked
@dataclass(frozen=True)
class Natural:
    """Down the objective as far as the function allows, and back to the function, in one damped solve.

    `d = argmin |J d + e|^2 / N + m |d + t l|^2`, with `e = s(w) - s(w0)` the function's drift so far, `l` the
    objective's gradient, `m` the damping and t = radius / |l|:

        d = -t l + z,    (J^T J / N + m I) z = J^T (t J l - e) / N

    The part from l is the predictor, parallel to `-m (g + m I)^-1 l`, the closed form of the published quadratic
    program (Raghavan & Thomson 2022); the part from e is a Gauss-Newton corrector. Both share one matrix, so they share
    one solve: the drift that one step leaves, which is of second order, is what the next one takes back.

    iterations: of conjugate gradients; a step costs about 2 `iterations` + 4 gradients of the batch, and the
        objective's. Where solving exactly in sample space, `z = J^T (J J^T + N m I)^-1 (t J l - e)`, takes fewer
        floating-point operations, as for small batches, that is done. None always solves exactly.
    warm: start the iterations from the last step's z, for one product more. With a fresh batch at each step that gains
        little; it pays where the batch is all anchors.
    chunk: inputs that are held in memory at once; a larger batch is streamed, at a forward pass more for each product.
    precision: of the products, see `Metric`.
    """

    damping: float = 1e-2
    iterations: int | None = 8
    warm: bool = False
    chunk: int | None = None
    precision: Precision = "full"

    def __post_init__(self) -> None:
        if not 0 <= self.damping < math.inf:
            raise UsageError(f"damping is at least 0 and finite; {self.damping} was given")
        if self.iterations is not None and not self.iterations >= 1:
            raise UsageError(f"at least one iteration is needed; {self.iterations} was given")
        if self.chunk is not None and not self.chunk >= 1:
            raise UsageError(f"a chunk holds at least one input; {self.chunk} was given")

    def begin(self, problem: Problem) -> State:
        return {}

    def propose(self, situation: Situation, state: State) -> Proposal:
        problem, batch = situation.problem, situation.batch
        metric = problem.metric(situation.weights, batch, chunk=self.chunk, precision=self.precision)
        descent = situation.descent
        target = -metric.j(descent) - (metric.embedded - batch.target)
        if isinstance(metric, StreamedMetric) or not self._exact_is_cheaper(metric, situation):
            correction = self._iterated(metric, situation, target, state)
        else:
            correction = self._exact(metric, situation, target)
        return promised(situation, descent + correction, {"correction": correction} if self.warm else {})

    def _iterated(self, metric: AnyMetric, situation: Situation, target: Tensor, state: State) -> Tensor:
        last = state.get("correction") if self.warm else None
        return conjugate_gradients(
            lambda z: situation.allowed(metric @ z) + self.damping * z,
            situation.allowed(metric.jt(target)) / len(situation.batch),
            iterations=self.iterations or metric.embedded.numel(),
            initial=None if last is None else situation.allowed(last),
        ).solution

    def _exact(self, metric: Metric | StackedMetric, situation: Situation, target: Tensor) -> Tensor:
        shift = len(situation.batch) * self.damping
        if situation.restricted:
            rows = torch.stack([situation.allowed(row) for row in metric.jacobian()])
            gram = rows @ rows.T
        else:
            gram = metric.gram()
        answer = solve_in_sample_space(gram, target.flatten(), shift=shift).view_as(target)
        return situation.allowed(metric.jt(answer))

    def _exact_is_cheaper(self, metric: Metric | StackedMetric, situation: Situation) -> bool:
        """By floating-point operations: of the Gram matrix and its factor, against the iterations' passes."""
        if self.iterations is None or self.damping == 0:
            return self.iterations is None
        size = metric.embedded.numel()
        exact = metric.gram_flops + size**3 / 3
        if situation.restricted:
            exact += 2.0 * size**2 * len(situation.weights)
        return exact < 4 * self.iterations * metric.flops
