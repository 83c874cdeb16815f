"""Steppers: what proposes the next displacement along a path. The protocol; one module a stepper in steppers/."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fipray.border import an_instance, number, shaped_like
from fipray.errors import UsageError
from fipray.paths.batch import Batch
from fipray.paths.objective import Objective, Projection, everything, gradient, only_descended, tangent
from fipray.paths.problem import Problem
from fipray.paths.quantities import outputs_on_anchors

State = dict[str, Tensor]


@dataclass(frozen=True)
class Situation:
    """What a step is made from.

    weights: [P], where the path stands; batch: the inputs whose outputs must stay; radius: the longest displacement,
    in units of the weights; progress: the share of the path that is walked with this step, 0..1; share: this step's
    own. What costs a pass is computed when first asked for.
    """

    problem: Problem
    objective: Objective
    weights: Tensor
    batch: Batch
    radius: float
    progress: float = 0.0
    fraction: float = 0.0

    @cached_property
    def slope(self) -> Tensor:
        """The objective's gradient [P], along the tangent of a restriction."""
        return self.allowed(gradient(self.objective, self.problem, self.weights, self.batch))

    @property
    def descent(self) -> Tensor:
        """`-t l` [P]: straight down the objective, as long as the radius; zero where the objective is flat."""
        length = float(torch.linalg.vector_norm(self.slope))
        return torch.zeros_like(self.slope) if length == 0 else self.slope * (-self.radius / length)

    @property
    def restricted(self) -> bool:
        """Whether anything holds the weights here: a sum of objectives is a restriction only where a part is one."""
        return self._projection is not everything

    def part_of(self, at: float) -> Situation:
        """The same situation on a path that ends, or begins, after a share `at`, 0..1, of this one."""
        begins, length = (0.0, at) if self.progress <= at else (at, 1 - at)
        part = replace(self, progress=(self.progress - begins) / length, fraction=self.fraction / length)
        if "slope" in vars(self):
            vars(part)["slope"] = self.slope
        return part

    def allowed(self, vector: Tensor) -> Tensor:
        """The part of `vector` [P] along which a restriction allows the weights to move: all of it without one."""
        return self._projection(vector)

    @cached_property
    def _projection(self) -> Projection:
        return tangent(self.objective, self.problem, self.weights)


@dataclass(frozen=True)
class Proposal:
    """A displacement [P], the decrease of the objective it promises to first order, the stepper's next state."""

    displacement: Tensor
    predicted_gain: float
    state: State = field(default_factory=dict)

    @property
    def not_finite(self) -> str:
        """What of it is NaN or infinite, in words; empty where nothing is."""
        length = float(torch.linalg.vector_norm(self.displacement))
        if not math.isfinite(length):
            return f"the length of the displacement was {length}"
        return "" if math.isfinite(self.predicted_gain) else f"the predicted gain was {self.predicted_gain}"


@runtime_checkable
class Stepper(Protocol):
    """Proposes displacements. Its state is an argument and a result, so a stepper itself never changes.

    A stepper goes down the objective and keeps the function; with an objective whose gradient is zero it only brings
    the function back, so a stepper is also a corrector (see `Corrected`).
    """

    def begin(self, problem: Problem) -> State:
        """The state before the first step."""
        ...

    def propose(self, situation: Situation, state: State) -> Proposal:
        """A displacement [P], no longer than the situation's radius, along the tangent of a restriction."""
        ...


def proposed(stepper: Stepper, situation: Situation, state: State) -> Proposal:
    """The stepper's proposal. Raises UsageError where it is none, or its displacement is not like the weights."""
    name = f"{type(stepper).__name__}.propose()"
    proposal: Proposal = an_instance(stepper.propose(situation, state), Proposal, name)
    shaped_like(proposal.displacement, situation.weights, f"{name}, as displacement,")
    number(proposal.predicted_gain, f"{name}, as predicted_gain,")
    an_instance(proposal.state, dict, f"{name}, as state,")
    return proposal


@runtime_checkable
class MayIgnore(Protocol):
    """A stepper that, as it is set, may not go down the objective."""

    @property
    def ignores_objective(self) -> str:
        """Why it does not, such as "its beta is 0"; empty where it does."""
        ...


def ignores(stepper: Stepper) -> str:
    """Why the stepper does not go down the objective; empty where it does."""
    why = stepper.ignores_objective if isinstance(stepper, MayIgnore) else ""
    return f"{type(stepper).__name__}: {why}" if why else ""


def check_heeded(stepper: Stepper, objective: Objective) -> None:
    """Raise UsageError for a stepper that ignores the objective, where nothing else would come of that."""
    why, ignored = ignores(stepper), only_descended(objective)
    if why and ignored is not None:
        raise UsageError(
            f"the stepper would ignore the objective {type(ignored).__name__} ({why}): give a stepper that goes down "
            "it, such as Natural() or FirstOrder(beta=0.1), or an objective that acts without, as Sparsify "
            "does by its restriction (Sparsify(0.0) asks for nothing)"
        )


def needs_outputs_alone(problem: Problem, stepper: str) -> None:
    """Raise UsageError for a problem of other kept quantities than the outputs on the anchors."""
    outputs, _ = outputs_on_anchors(problem.keeps)
    others = [name for name in problem.keeps if name != outputs]
    if others:
        raise UsageError(
            f"{stepper} keeps the outputs on the anchors alone, and {', '.join(map(repr, others))} must be kept too: "
            "take Natural, Projected or FirstOrder"
        )


def promised(situation: Situation, displacement: Tensor, state: State | None = None) -> Proposal:
    """`displacement` [P], shortened to the radius, with the gain that the objective's slope promises."""
    displacement = within(situation.radius, displacement)
    return Proposal(displacement, float(-(situation.slope @ displacement)), state or {})


def within(radius: float, displacement: Tensor) -> Tensor:
    """`displacement` [P], shortened to `radius` where it is longer."""
    length = float(torch.linalg.vector_norm(displacement))
    return displacement * (radius / length) if length > radius else displacement
