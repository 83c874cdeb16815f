"""Steppers: what proposes the next displacement along a path."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from fipray.errors import UsageError
from fipray.geometry import Metric, conjugate_gradients, solve_in_sample_space
from fipray.paths.objective import Objective, gradient, tangent
from fipray.paths.problem import Batch, Problem

State = dict[str, Tensor]


@dataclass(frozen=True)
class Proposal:
    """A displacement [P], the decrease of the objective it promises to first order, the stepper's next state."""

    displacement: Tensor
    predicted_gain: float
    state: State = field(default_factory=dict)


class Stepper(Protocol):
    """Proposes displacements. Its state is an argument and a result, so a stepper itself never changes."""

    def begin(self, problem: Problem) -> State:
        """The state before the first step."""
        ...

    def propose(
        self, problem: Problem, objective: Objective, weights: Tensor, batch: Batch, radius: float, state: State
    ) -> Proposal:
        """A displacement [P] from `weights`, no longer than `radius`, along the tangent of a restriction."""
        ...


@dataclass(frozen=True)
class NaturalStep:
    """The exact step: down the objective as far as the function allows, and back to the function, in one damped solve.

    `d = argmin |J d + e|^2 / N + m |d + t l|^2`, with `e = s(w) - s(w0)` the function's drift so far, `l` the
    objective's gradient, `m` the damping and t = radius / |l|. Solved in sample space (Woodbury):

        d = -t l + J^T y,    (J J^T + N m I) y = t J l - e

    The part from l is the predictor, parallel to `-m (g + m I)^-1 l`, the closed form of the published quadratic
    program (Raghavan & Thomson 2022); with m = 0 it is the projection on the null space of g. The part from e is a
    Gauss-Newton corrector. Both share one matrix, so they share one solve: the drift that one step leaves, which is of
    second order, is what the next one takes back.

    iterations: of conjugate gradients on y; a step costs about 2 `iterations` + 4 gradients of the batch, and the
        objective's. None solves exactly, through the Gram matrix [N C, N C]: N C gradients and N C P numbers, for small
        batches.
    """

    damping: float = 1e-2
    iterations: int | None = 8

    def __post_init__(self) -> None:
        if not self.damping >= 0:
            raise UsageError(f"damping is at least 0; {self.damping} was given")
        if self.iterations is not None and self.iterations < 1:
            raise UsageError(f"at least one iteration is needed; {self.iterations} was given")

    def begin(self, problem: Problem) -> State:
        return {}

    def propose(
        self, problem: Problem, objective: Objective, weights: Tensor, batch: Batch, radius: float, state: State
    ) -> Proposal:
        def allowed(vector: Tensor) -> Tensor:
            return tangent(objective, problem, weights, vector)

        metric = Metric(problem.network, weights, batch.inputs, problem.geometry)
        slope = allowed(gradient(objective, problem, weights, batch))
        length = torch.linalg.vector_norm(slope)
        descent = slope * (radius / length) if float(length) > 0 else slope
        shift = len(batch) * self.damping
        right = metric.j(descent) - (metric.embedded - batch.reference)
        if self.iterations is None:
            rows = allowed(metric.jacobian())
            answer = solve_in_sample_space(rows @ rows.T, right.flatten(), shift=shift).view_as(right)
        else:
            answer = conjugate_gradients(
                lambda u: metric.j(allowed(metric.jt(u))) + shift * u, right, iterations=self.iterations
            ).solution
        displacement = within(radius, allowed(metric.jt(answer)) - descent)
        return Proposal(displacement, float(-(slope @ displacement)))


@dataclass(frozen=True)
class FirstOrderStep:
    """The cheap step: Adam (Kingma & Ba 2015) on `D(w)^2 + beta objective(w)`, D the functional distance on the batch.

    The diagonal of Adam's second moments stands for the metric. The rate is `radius / sqrt(P)`, so that a step in which
    every weight moves at the full rate is as long as the radius. One gradient a step.
    """

    beta: float = 0.0
    decay: float = 0.9
    decay_squares: float = 0.999

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise UsageError(f"beta is at least 0; {self.beta} was given")
        if not (0 <= self.decay < 1 and 0 <= self.decay_squares < 1):
            raise UsageError(f"decays lie in 0..1, 1 excluded; {self.decay} and {self.decay_squares} were given")

    def begin(self, problem: Problem) -> State:
        zeros = torch.zeros_like(problem.start)
        return {"mean": zeros, "square": zeros, "count": torch.zeros((), dtype=torch.int64)}

    def propose(
        self, problem: Problem, objective: Objective, weights: Tensor, batch: Batch, radius: float, state: State
    ) -> Proposal:
        moving = weights.detach().requires_grad_(True)
        with torch.enable_grad():
            embedded = problem.geometry.embed(problem.network(moving, batch.inputs))
            total = (embedded - batch.reference).square().sum(1).mean()
            if self.beta > 0:
                total = total + self.beta * objective.value(problem, moving, batch)
            slope = torch.autograd.grad(total, moving)[0]
        slope = tangent(objective, problem, weights, slope)
        count = state["count"] + 1
        mean = torch.lerp(slope, state["mean"], self.decay)
        square = torch.lerp(slope.square(), state["square"], self.decay_squares)
        n = int(count)
        scale = (square / (1 - self.decay_squares**n)).sqrt_().add_(1e-8)
        rate = radius / problem.network.num_weights**0.5
        direction = mean.mul(-rate / (1 - self.decay**n)).div_(scale)
        displacement = within(radius, tangent(objective, problem, weights, direction))
        return Proposal(displacement, 0.0, {"mean": mean, "square": square, "count": count})


@dataclass(frozen=True)
class PublishedStep:
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

    def begin(self, problem: Problem) -> State:
        return {}

    def propose(
        self, problem: Problem, objective: Objective, weights: Tensor, batch: Batch, radius: float, state: State
    ) -> Proposal:
        moving = weights.detach().requires_grad_(True)
        with torch.enable_grad():
            roots = problem.geometry.embed(problem.network(moving, batch.inputs)) / 2
            overlap = (roots.square() * (batch.reference / 2).square() + 1e-8).sqrt().sum(1)
            distance = -overlap.log().sum()
            total = distance + self.penalty * objective.value(problem, moving, batch)
            slope = torch.autograd.grad(total, moving)[0]
        length = min(self.length, radius)
        return Proposal(-length * slope / torch.linalg.vector_norm(slope).clamp(min=1e-30), 0.0)


@dataclass(frozen=True)
class OneShot:
    """No step at all: only a restriction acts. With `Sparsify` and one step this is one-shot magnitude pruning."""

    def begin(self, problem: Problem) -> State:
        return {}

    def propose(
        self, problem: Problem, objective: Objective, weights: Tensor, batch: Batch, radius: float, state: State
    ) -> Proposal:
        return Proposal(torch.zeros_like(weights), 0.0)


def within(radius: float, displacement: Tensor) -> Tensor:
    """`displacement` [P], shortened to `radius` where it is longer."""
    length = float(torch.linalg.vector_norm(displacement))
    return displacement * (radius / length) if length > radius else displacement
