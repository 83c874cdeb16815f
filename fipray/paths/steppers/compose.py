"""Composed steppers: predictor and corrector, and a switch from one stepper to another."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.paths.batch import Batch
from fipray.paths.calls import restrict, tangent
from fipray.paths.objective import Objective, Projection
from fipray.paths.problem import Problem
from fipray.paths.state import State, part_of_state
from fipray.paths.stepper import Proposal, Situation, Stepper, ignores, promised
from fipray.registry import spec


@spec("corrected")
@checked
@dataclass(frozen=True)
class Corrected:
    """Predictor step followed by a corrector step that brings the function back.

    The corrector steps from where the predictor leads, on the same batch and with an objective of value 0, so it only
    reduces the functional distance; the restriction of the path's objective still holds. The sum of both displacements
    is scaled down to the radius.

    Cost per step: that of both steppers, and the objective's gradient for the predicted gain.

    Needs: what its steppers need.

    Args:
        predictor: any stepper.
        corrector: a stepper that reduces the functional distance: Natural, Projected, Kronecker or FirstOrder.
    """

    predictor: Stepper
    corrector: Stepper

    @property
    def ignores_objective(self) -> str:
        return ignores(self.predictor)

    def begin(self, problem: Problem) -> State:
        return _joined(predictor=self.predictor.begin(problem), corrector=self.corrector.begin(problem))

    def propose(self, situation: Situation, state: State) -> Proposal:
        ahead = self.predictor.propose(situation, _part("predictor", state))
        # `replace` drops the cached slope and projection, which belong to the weights before the predictor
        moved = replace(
            situation, objective=_RestrictionAlone(situation.objective), weights=situation.weights + ahead.displacement
        )
        back = self.corrector.propose(moved, _part("corrector", state))
        states = _joined(predictor=ahead.state, corrector=back.state)
        # predicted from the sum, because a correction may take back some of the predictor's gain
        return promised(situation, ahead.displacement + back.displacement, states)


@spec("switch")
@checked
@dataclass(frozen=True)
class Switch:
    """One stepper on the first part of a path and another on the rest, such as a cheap one and then an exact one.

    Each of the two sees its part as a whole path: its progress goes from 0 to 1.

    Cost per step: that of the stepper in use.

    Needs: what its steppers need.

    Args:
        far: stepper while at most the fraction `at` of the path is behind.
        near: stepper after that.
        at: fraction of the path, above 0 and below 1.

    Raises:
        UsageError: for `at` out of range.
    """

    far: Stepper
    near: Stepper
    at: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.at < 1:
            raise UsageError(f"at must be a fraction of the path, above 0 and below 1; at={self.at} was given")

    @property
    def ignores_objective(self) -> str:
        return ignores(self.far) or ignores(self.near)

    def begin(self, problem: Problem) -> State:
        return _joined(far=self.far.begin(problem), near=self.near.begin(problem))

    def propose(self, situation: Situation, state: State) -> Proposal:
        name, stepper = ("far", self.far) if situation.progress <= self.at else ("near", self.near)
        proposal = stepper.propose(situation.part_of(self.at), _part(name, state))
        # the other stepper's state is carried along: a resumed path must find both
        return replace(proposal, state={**state, **_joined(**{name: proposal.state})}).of_length(proposal.length)


@dataclass(frozen=True)
class _RestrictionAlone:
    """Objective of value 0 with the restriction of another."""

    objective: Objective

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        return torch.zeros((), dtype=weights.dtype, device=weights.device)

    def gradient(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        return torch.zeros_like(weights)

    def restrict(self, problem: Problem, weights: Tensor, progress: float, batch: Batch) -> Tensor:
        return restrict(self.objective, problem, weights, progress, batch)

    def tangent(self, problem: Problem, weights: Tensor) -> Projection:
        return tangent(self.objective, problem, weights)


# a state holds tensors alone, under flat names, so those of two steppers are told apart by a prefix
def _joined(**states: State) -> State:
    return {f"{name}.{key}": value for name, state in states.items() for key, value in state.items()}


def _part(name: str, state: State) -> State:
    prefix = f"{name}."
    return part_of_state(
        state, {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    )
