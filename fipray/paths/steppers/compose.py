"""Steppers made of steppers: one predicts and another corrects; one walks far and another near the end."""

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
from fipray.paths.stepper import Proposal, Situation, State, Stepper, ignores, promised
from fipray.registry import spec


@spec("corrected")
@checked
@dataclass(frozen=True)
class Corrected:
    """A step of `predictor`, then one of `corrector` from where it leads, which only brings the function back.

    Any stepper predicts; one that looks at the function's drift corrects: Natural, Projected, Kronecker,
    FirstOrder.
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
        moved = replace(
            situation, objective=_Still(situation.objective), weights=situation.weights + ahead.displacement
        )
        back = self.corrector.propose(moved, _part("corrector", state))
        states = _joined(predictor=ahead.state, corrector=back.state)
        return promised(situation, ahead.displacement + back.displacement, states)


@spec("switch")
@checked
@dataclass(frozen=True)
class Switch:
    """`far` until a share `at`, 0..1, of the path is walked, then `near`: cheap while far, exact near the end.

    Each of the two walks a whole path of its own: its progress goes from 0 to 1.
    """

    far: Stepper
    near: Stepper
    at: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.at < 1:
            raise UsageError(f"a path switches after a share of it, above 0 and below 1; at={self.at} was given")

    @property
    def ignores_objective(self) -> str:
        return ignores(self.far) or ignores(self.near)

    def begin(self, problem: Problem) -> State:
        return _joined(far=self.far.begin(problem), near=self.near.begin(problem))

    def propose(self, situation: Situation, state: State) -> Proposal:
        name, stepper = ("far", self.far) if situation.progress <= self.at else ("near", self.near)
        made = stepper.propose(situation.part_of(self.at), _part(name, state))
        return replace(made, state={**state, **_joined(**{name: made.state})})


@dataclass(frozen=True)
class _Still:
    """No objective, but the restriction of one that has one."""

    objective: Objective

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        return torch.zeros((), dtype=weights.dtype, device=weights.device)

    def gradient(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        return torch.zeros_like(weights)

    def restrict(self, problem: Problem, weights: Tensor, progress: float, batch: Batch) -> Tensor:
        return restrict(self.objective, problem, weights, progress, batch)

    def tangent(self, problem: Problem, weights: Tensor) -> Projection:
        return tangent(self.objective, problem, weights)


def _joined(**states: State) -> State:
    return {f"{name}.{key}": value for name, state in states.items() for key, value in state.items()}


def _part(name: str, state: State) -> State:
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
