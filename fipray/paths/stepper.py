"""Steppers, which propose displacements: the protocol, its arguments and results. Implementations are in steppers/."""

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
from fipray.paths.calls import everything, gradient, tangent
from fipray.paths.objective import Masked, Objective, Projection, only_descended
from fipray.paths.problem import Problem
from fipray.paths.quantities import outputs_on_anchors
from fipray.paths.state import OwnedState, State, versions_of


@dataclass(frozen=True)
class Situation:
    """Everything that a stepper needs for one step. Quantities that cost a pass are computed on first use.

    Args:
        problem: quantities that must stay.
        objective: secondary objective.
        weights: weights [P] at which the path stands.
        batch: inputs on which the quantities must stay.
        radius: largest L2 length of the displacement, in the unit of the weights.
        progress: fraction of the path that is completed with this step, 0..1.
        fraction: fraction of the path that is this step.
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
        """Gradient [P] of the objective, projected on the directions that a restriction allows."""
        return self.allowed(gradient(self.objective, self.problem, self.weights, self.batch))

    @property
    def descent(self) -> Tensor:
        """Steepest descent `-t l` [P] as long as the radius; zero where the objective is flat."""
        length = torch.linalg.vector_norm(self.slope)
        # A slope of NaN is not flat: it makes a displacement of NaN, which ends the path with that reason.
        return self.slope * torch.where(length == 0, 0.0, -self.radius / length)

    @property
    def restricted(self) -> bool:
        """True where directions are restricted. A sum of objectives restricts only where one of its parts does."""
        # By identity, because a projection cannot be inspected: `tangent` returns `everything` itself.
        return self._projection is not everything

    @property
    def mask(self) -> Tensor | None:
        """Factors [P] by which the projection multiplies a vector; None where it is no mask."""
        return self._projection.mask if isinstance(self._projection, Masked) else None

    def part_of(self, at: float) -> Situation:
        """Rescale the progress to the part of the path before or after a fraction of it.

        Args:
            at: fraction of the path, 0..1, at which the parts meet.

        Returns:
            The same situation, as a step of the part in which it lies.
        """
        # The step that ends at `at` belongs to the first part.
        begins, length = (0.0, at) if self.progress <= at else (at, 1 - at)
        part = replace(self, progress=(self.progress - begins) / length, fraction=self.fraction / length)
        if "slope" in vars(self):  # computed already, and the same there
            # `replace` calls the constructor, which drops cached properties; a gradient is too costly to repeat.
            vars(part)["slope"] = self.slope
        return part

    def allowed(self, vector: Tensor) -> Tensor:
        """Project a vector on the directions in which weights may move.

        Args:
            vector: [P].

        Returns:
            The projection [P]; the vector itself without a restriction.
        """
        return self._projection(vector)

    def allow(self, pieces: list[Tensor]) -> list[Tensor]:
        """Project a vector that nothing else needs; overwrites it where the projection is a mask.

        Args:
            pieces: pieces of a vector [P], in order.

        Returns:
            The projection: the same pieces, or one piece where the projection needs the whole vector.
        """
        if self.mask is not None:
            torch._foreach_mul_(pieces, self.mask.split([len(piece) for piece in pieces]))
            return pieces
        return [self.allowed(torch.cat(pieces))] if self.restricted else pieces

    @cached_property
    def _projection(self) -> Projection:
        return tangent(self.objective, self.problem, self.weights)


@dataclass(frozen=True)
class Proposal:
    """Proposed step.

    Args:
        displacement: [P], no longer than the radius.
        predicted_gain: decrease of the objective to first order; 0 for no prediction.
        state: state of the stepper after this step, used where the step is accepted.
    """

    displacement: Tensor
    predicted_gain: float
    state: State = field(default_factory=dict)

    @cached_property
    def length(self) -> float:
        """L2 length of the displacement."""
        return float(torch.linalg.vector_norm(self.displacement))

    def of_length(self, length: float) -> Proposal:
        """Record the length of the displacement where a stepper has computed it already.

        Args:
            length: L2 length.

        Returns:
            This proposal. A copy of it with another displacement computes its own.
        """
        vars(self)["length"] = length  # no field: `dataclasses.replace` must not carry it over
        return self

    @property
    def not_finite(self) -> str:
        """Description of a part that is NaN or infinite; empty where everything is finite."""
        # The norm is finite only where every entry is: one number to fetch from a GPU.
        if not math.isfinite(self.length):
            return f"the length of the displacement was {self.length}"
        return "" if math.isfinite(self.predicted_gain) else f"the predicted gain was {self.predicted_gain}"


@runtime_checkable
class Stepper(Protocol):
    """Proposes displacements that go down the objective and keep the function.

    The state is an argument and a result; a stepper itself never changes. With an objective whose gradient is zero a
    stepper only brings the function back, so that every stepper is a corrector, too (see `Corrected`).
    """

    def begin(self, problem: Problem) -> State:
        """Return the state before the first step.

        Args:
            problem: quantities that must stay.

        Returns:
            Tensors by name; empty for a stepper without a state.
        """
        ...

    def propose(self, situation: Situation, state: State) -> Proposal:
        """Propose a step.

        Args:
            situation: weights, batch, objective and radius.
            state: state after the last accepted step; not to be written to, except for what `taken` returns.

        Returns:
            A displacement [P] no longer than the radius, along directions that a restriction allows.
        """
        ...


def proposed(stepper: Stepper, situation: Situation, state: State) -> Proposal:
    """Call `Stepper.propose` and check its result.

    Args:
        stepper: stepper of the path.
        situation: weights, batch, objective and radius.
        state: state after the last accepted step.

    Returns:
        The proposal.

    Raises:
        UsageError: where it is no proposal, or its displacement differs from the weights in shape, dtype or device.
    """
    name, versions = f"{type(stepper).__name__}.propose()", versions_of(state)

    def propose() -> Proposal:
        # Called again where memory runs out, unless the stepper has begun to overwrite a state that it owns.
        if versions_of(state) != versions:
            raise torch.OutOfMemoryError("memory ran out after the stepper had begun to overwrite its state")
        return stepper.propose(situation, OwnedState(state) if isinstance(state, OwnedState) else state)

    # A batch and the inputs of an objective on it may be passed through the network together.
    found = situation.problem.network.fitting(propose, 2 * len(situation.batch))
    proposal: Proposal = an_instance(found, Proposal, name)
    # A displacement in another dtype would change that of all later weights without an error.
    shaped_like(proposal.displacement, situation.weights, f"{name}, as displacement,")
    number(proposal.predicted_gain, f"{name}, as predicted_gain,")
    an_instance(proposal.state, dict, f"{name}, as state,")
    return proposal


@runtime_checkable
class MayIgnore(Protocol):
    """Stepper that ignores the objective with some of its settings."""

    @property
    def ignores_objective(self) -> str:
        """Reason, such as "its beta is 0"; empty where it does not ignore the objective."""
        ...


def ignores(stepper: Stepper) -> str:
    """Describe why a stepper ignores the objective.

    Args:
        stepper: stepper of the path.

    Returns:
        The stepper and the reason; empty where it goes down the objective.
    """
    why = stepper.ignores_objective if isinstance(stepper, MayIgnore) else ""
    return f"{type(stepper).__name__}: {why}" if why else ""


def check_heeded(stepper: Stepper, objective: Objective) -> None:
    """Check that an objective has an effect with a stepper.

    Args:
        stepper: stepper of the path.
        objective: secondary objective.

    Raises:
        UsageError: for a stepper that ignores the objective, unless the objective acts through a restriction.
    """
    why, ignored = ignores(stepper), only_descended(objective)
    if why and ignored is not None:
        raise UsageError(
            f"the stepper would ignore the objective {type(ignored).__name__} ({why}): give a stepper that goes down "
            "it, such as Natural() or FirstOrder(beta=0.1), or an objective that acts without a gradient, as Sparsify "
            "does by its restriction (Sparsify(0.0) has no effect)"
        )


def needs_outputs_alone(problem: Problem, stepper: str) -> None:
    """Check that a problem keeps nothing but the outputs on the anchors.

    Args:
        problem: problem of the path.
        stepper: name of the stepper or function that supports no other quantities, for the message.

    Raises:
        UsageError: for a problem with other kept quantities.
    """
    outputs, _ = outputs_on_anchors(problem.keeps)
    others = [name for name in problem.keeps if name != outputs]
    if others:
        raise UsageError(
            f"{stepper} keeps the outputs on the anchors alone, and {', '.join(map(repr, others))} must be kept too: "
            "use Natural, Projected or FirstOrder"
        )


def promised(situation: Situation, displacement: Tensor, state: State | None = None) -> Proposal:
    """Make a proposal with a first-order prediction of the gain.

    Args:
        situation: weights, batch, objective and radius.
        displacement: [P]; shortened to the radius where it is longer.
        state: state after the step; None for an empty one.

    Returns:
        The proposal.
    """
    radius = situation.radius
    # Both at once: a GPU is waited for once.
    length, rise = torch.stack([torch.linalg.vector_norm(displacement), situation.slope @ displacement]).tolist()
    # A displacement of NaN fails the comparison and passes unchanged, for `Proposal.not_finite` to report.
    if length > radius:
        displacement, length, rise = displacement * (radius / length), radius, rise * (radius / length)
    return Proposal(displacement, -rise, state or {}).of_length(length)


def within(radius: float, displacement: Tensor, norm: Tensor) -> tuple[Tensor, float]:
    """Shorten a displacement to a radius, in place.

    Args:
        radius: largest L2 length.
        displacement: [P]; scaled down where it is longer.
        norm: its L2 length, a scalar.

    Returns:
        The displacement, and its length.
    """
    # A displacement of NaN fails the comparison and passes unchanged, for `Proposal.not_finite` to report.
    length = float(norm)
    return (displacement.mul_(radius / length), radius) if length > radius else (displacement, length)
