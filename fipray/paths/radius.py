"""Judgement of candidate steps: the quantities it looks at, its result, and the protocol of radius controls.

The controls themselves are in radii.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from fipray.border import an_instance, number
from fipray.paths.batch import Batch
from fipray.paths.calls import value
from fipray.paths.problem import Problem
from fipray.paths.stepper import Situation


@dataclass(frozen=True)
class Candidate:
    """Proposed step that is not yet accepted. Quantities that cost a forward pass are computed on first use.

    Args:
        made: situation in which the step was made, with its own batch and radius.
        after: weights [P] after the step.
        predicted_gain: first-order prediction of the decrease of the objective.
        batch: fresh batch on which the step is judged; staying on the inputs that made a step is no evidence.
    """

    made: Situation
    after: Tensor
    predicted_gain: float
    batch: Batch

    @cached_property
    def distance_before(self) -> float:
        """Functional distance to the start before the step, on the fresh batch."""
        return _distance(self._squares(self.made.weights, self.batch))[0]

    @cached_property
    def distance_after(self) -> float:
        """Functional distance to the start after the step: the larger of those on its own and on the fresh batch."""
        return _greatest(*(distance for distance, _ in self._after))

    @cached_property
    def distance_at_most(self) -> float:
        """Upper estimate of `distance_after`: with two standard errors of the fresh batch's mean square added."""
        (_, fresh), (own, _) = self._after
        return _greatest(fresh, own)

    @cached_property
    def leaves_budget(self) -> bool:
        """True where a kept quantity exceeds its budget after the step and is no nearer to it than before."""
        problem = self.made.problem
        budgets = {name: kept.budget for name, kept in problem.keeps.items() if kept.budget < math.inf}
        # Without budgets this returns early: every distance below costs a forward pass.
        if not budgets:
            return False
        before, after = (problem.distances(weights, self.batch) for weights in (self.made.weights, self.after))
        return any(after[name] > budget and not after[name] < before[name] for name, budget in budgets.items())

    @cached_property
    def gain(self) -> float:
        """Decrease of the objective on the fresh inputs, with the random numbers of the step's own batch."""
        return self._before - self._objective(self.after)

    @property
    def not_finite(self) -> str:
        """Description of the quantities computed so far that are NaN or infinite; empty where none is."""
        named = {
            "distance_before": "the functional distance before the step",
            "distance_after": "the functional distance after the step",
            "distance_at_most": "the functional distance after the step, with its error,",
            "gain": "the gain",
        }
        # Asking for a quantity that the radius control did not need would cost forward passes at every step.
        computed = {name: vars(self)[key] for key, name in named.items() if key in vars(self)}
        return " and ".join(f"{name} was {value}" for name, value in computed.items() if not math.isfinite(value))

    @property
    def rounding(self) -> float:
        """Largest gain that may be a rounding error."""
        # The objective cancels in a gain: its rounding is that of the values, not of their difference.
        return 4 * torch.finfo(self.after.dtype).eps * abs(self._before)

    @cached_property
    def _before(self) -> float:
        return self._objective(self.made.weights)

    def _objective(self, weights: Tensor) -> float:
        # With the seed of the step's own batch an objective that draws noise draws the same before and after.
        made, batch = self.made, replace(self.batch, seed=self.made.batch.seed)
        return float(value(made.objective, made.problem, weights, batch).detach())

    @cached_property
    def _after(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Functional distances after the step on the fresh and on its own batch, each with its upper estimate."""
        fresh, own = self.batch, self.made.batch
        if fresh.is_plain and own.is_plain and fresh.inputs.shape[1:] == own.inputs.shape[1:]:
            # One pass for both: convolutions on a CPU rearrange their weights in every pass.
            both = Batch(torch.cat([fresh.inputs, own.inputs]), torch.cat([fresh.reference, own.reference]))
            (squares,) = self._squares(self.after, both)
            return _distance([squares[: len(fresh)]]), _distance([squares[len(fresh) :]])
        return _distance(self._squares(self.after, fresh)), _distance(self._squares(self.after, own))

    def _squares(self, weights: Tensor, batch: Batch) -> list[Tensor]:
        return list(self.made.problem.squares(weights, batch).values())


def _distance(squares: Sequence[Tensor]) -> tuple[float, float]:
    """Functional distance over all kept quantities, and the same plus two standard errors of the mean squares."""
    # One input alone has no variance. All numbers at once: a GPU is waited for once.
    spreads = [each.std() if len(each) > 1 else torch.zeros_like(each[0]) for each in squares]
    found = torch.stack([*(each.mean() for each in squares), *spreads]).tolist()
    # The distance is over the union of all quantities, so their mean squares add up before the root.
    mean = sum(found[: len(squares)])
    # Variances of independent means add up.
    errors = [std / len(each) ** 0.5 for std, each in zip(found[len(squares) :], squares, strict=True)]
    return mean**0.5, (mean + 2 * math.hypot(*errors)) ** 0.5


def _greatest(one: float, other: float) -> float:
    """Maximum of two numbers, NaN where either is: the result of `max` would depend on their order."""
    return math.nan if math.isnan(one) or math.isnan(other) else max(one, other)


@dataclass(frozen=True)
class Acceptance:
    """Judgement of a candidate step.

    Args:
        accepted: whether the step is taken.
        radius: largest L2 length of the next step, in the unit of the weights.
    """

    accepted: bool
    radius: float

    @property
    def not_finite(self) -> str:
        """Description of a radius that is NaN or infinite; empty where it is finite."""
        return "" if math.isfinite(self.radius) else f"the next radius was {self.radius}"


@runtime_checkable
class RadiusControl(Protocol):
    """Accepts or refuses candidate steps, and sets the radius of the next one.

    Radii are L2 lengths in weight space; settings named `initial` are in units of |w0|, the norm of the start's weights
    that may change.
    """

    def begin(self, problem: Problem) -> float:
        """Return the radius of the first step.

        Args:
            problem: quantities that must stay; `problem.length` is |w0|.

        Returns:
            L2 length, above 0.
        """
        ...

    def judge(self, candidate: Candidate) -> Acceptance:
        """Judge a candidate.

        Args:
            candidate: proposed step; `candidate.made` holds its radius and the progress of the path.

        Returns:
            Whether it is accepted, and the next radius.
        """
        ...


@runtime_checkable
class AcceptsAll(Protocol):
    """Radius control that accepts every candidate."""

    @property
    def accepts_all(self) -> Literal[True]: ...


def first_radius(radius: RadiusControl, problem: Problem) -> float:
    """Call `RadiusControl.begin` and check its result.

    Args:
        radius: radius control.
        problem: quantities that must stay.

    Returns:
        Radius of the first step.

    Raises:
        UsageError: where the control returns no number.
    """
    return number(radius.begin(problem), f"{type(radius).__name__}.begin()")


def judgement(radius: RadiusControl, candidate: Candidate) -> Acceptance:
    """Call `RadiusControl.judge` and check its result.

    Args:
        radius: radius control.
        candidate: proposed step.

    Returns:
        Whether it is accepted, and the next radius.

    Raises:
        UsageError: where the control returns no `Acceptance`, or one whose radius is no number.
    """
    name = f"{type(radius).__name__}.judge()"
    found: Acceptance = an_instance(radius.judge(candidate), Acceptance, name)
    return Acceptance(found.accepted, number(found.radius, f"{name}, as radius,"))
