"""Natural stepper: the damped step in the metric tensor of the function."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.geometry import Metric, StackedMetric, StreamedMetric, conjugate_gradients, damped_least_squares
from fipray.geometry.metric import Precision
from fipray.paths.problem import Problem
from fipray.paths.state import State
from fipray.paths.stepper import Proposal, Situation, promised
from fipray.paths.steppers.sample_space import exact_correction
from fipray.registry import spec

AnyMetric = Metric | StreamedMetric | StackedMetric


@spec("natural")
@checked
@dataclass(frozen=True)
class Natural:
    """Natural-gradient step on the objective with a Gauss-Newton correction of the function, in one damped solve.

    `d = argmin |J d + e|^2 / N + m |d + t l|^2`, with `e = s(w) - s(w0)` the change of the embedded outputs so far, l
    the objective's gradient, m the damping and `t = radius / |l|`:

        d = -t l + z,    (J^T J / N + m I) z = J^T (t J l - e) / N

    The part from l is the predictor, parallel to `-m (g + m I)^-1 l`, the closed form of the published quadratic
    program. The part from e is a Gauss-Newton corrector, which takes back the second-order error of the previous step.
    Both share one matrix, hence one solve.

    Cost per step: about `2 iterations + 4` gradients of the batch, and the objective's gradient. Where solving exactly
    in sample space, `z = J^T (J J^T + N m I)^-1 (t J l - e)`, takes fewer floating-point operations, as for small
    batches, that is done instead.

    Needs: nothing beyond the batch. Any kept quantities and any output geometry; operations that autograd can
    differentiate twice.

    Source: Raghavan & Thomson 2022, arXiv 2205.00334; natural gradient, Amari 1998.

    Args:
        damping: m, at least 0. Smaller holds the function more tightly; 0 projects on the null space of J, and is
            solved exactly only with `iterations=None`.
        iterations: conjugate-gradient iterations per step, at least 1. None always solves exactly in sample space
            (iterating to convergence where the batch is streamed).
        warm: whether to start the iterations from the last step's z, for one more product. With a fresh batch at each
            step it gains little; it pays where the batch is all anchors.
        chunk: number of inputs held in memory at once; a larger batch is streamed, which costs one more forward pass
            per product. None takes the network's micro-batch (`fipray.Compute`), and never streams without one.
        precision: of the products, "full" or "bf16" (see `fipray.geometry.Metric`).

    Raises:
        UsageError: for a setting out of range.
    """

    damping: float = 1e-2
    iterations: int | None = 8
    warm: bool = False
    chunk: int | None = None
    precision: Precision = "full"

    def __post_init__(self) -> None:
        if not 0 <= self.damping < math.inf:
            raise UsageError(f"damping must be at least 0 and finite; {self.damping} was given")
        if self.iterations is not None and not self.iterations >= 1:
            raise UsageError(f"iterations must be None or at least 1; {self.iterations} was given")
        if self.chunk is not None and not self.chunk >= 1:
            raise UsageError(f"chunk must be None or at least 1; {self.chunk} was given")

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
            correction = exact_correction(metric, situation, target, shift=len(situation.batch) * self.damping)
        return promised(situation, descent + correction, {"correction": correction} if self.warm else {})

    def _iterated(self, metric: AnyMetric, situation: Situation, target: Tensor, state: State) -> Tensor:
        last = state.get("correction") if self.warm else None
        num_inputs = len(situation.batch)
        if last is None and self.iterations is not None and not isinstance(metric, StreamedMetric):
            solution = damped_least_squares(
                metric.j,
                lambda sensitivities: situation.allow(metric.jt_in_pieces(sensitivities)),
                target,
                shift=num_inputs * self.damping,
                iterations=self.iterations,
            )
            return situation.allowed(metric.jt(solution))
        # A streamed metric shares the forward pass between J and J^T only in products with J^T J.
        return conjugate_gradients(
            # symmetric on the tangent only, in which the right-hand side and every iterate must therefore lie
            lambda z: torch.add(situation.allowed(metric @ z), z, alpha=self.damping),
            situation.allowed(metric.jt(target)) / num_inputs,
            # the right-hand side is in the range of J^T, of dimension N C: exact arithmetic ends after that many
            iterations=self.iterations or metric.embedded.numel(),
            # the last z may lie off a restriction that has tightened since
            initial=None if last is None else situation.allowed(last),
        ).solution

    def _exact_is_cheaper(self, metric: Metric | StackedMetric, situation: Situation) -> bool:
        """Compare floating-point operations: the Gram matrix and its factor against the iterations' passes."""
        # at damping 0 the two differ: few iterations hold less than the pseudo-inverse, so cost must not decide
        if self.iterations is None or self.damping == 0:
            return self.iterations is None
        size = metric.embedded.numel()
        exact = metric.gram_flops + size**3 / 3
        if situation.restricted:
            exact += 2.0 * size**2 * len(situation.weights)
        # an iteration is a product with J and one with J^T, of two forward passes each
        return exact < 4 * self.iterations * metric.flops
