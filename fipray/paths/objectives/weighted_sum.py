"""Weighted sum of objectives."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.networks import Network
from fipray.paths.batch import Batch
from fipray.paths.calls import everything, gradient, restrict, tangent, value
from fipray.paths.objective import Objective, Projection, check_network, milestones, only_descended, tasks_of
from fipray.paths.problem import Problem
from fipray.registry import spec


@spec("weighted_sum")
@checked
@dataclass(frozen=True)
class WeightedSum:
    """Weighted sum of objectives: `value = sum_i c_i value_i` for pairs `(c_i, objective_i)`.

        WeightedSum(((1.0, GradientDiversity()), (0.1, Toward())))

    A negative coefficient maximises its objective. Gradients that parts estimate themselves are summed with the same
    coefficients. The restrictions of all parts hold, whatever their coefficients; they are applied in turn, so those of
    two parts must be compatible. A part with coefficient 0 only restricts.

    Cost: the sum of the parts' costs; parts with coefficient 0 cost their restriction only.

    Needs: what its parts need.

    Args:
        parts: one pair or more of a finite coefficient and an objective.

    Raises:
        UsageError: for no parts, a coefficient that is not finite, or a part with coefficient 0 that restricts nothing.
    """

    parts: tuple[tuple[float, Objective], ...]

    def __post_init__(self) -> None:
        if not (self.parts and all(math.isfinite(coefficient) for coefficient, _ in self.parts)):
            raise UsageError(
                "parts must be a tuple of pairs (finite coefficient, objective), at least one, such as "
                f"((1.0, GradientDiversity()), (0.1, Toward())); {self.parts!r} was given"
            )
        for coefficient, part in self.parts:
            if coefficient == 0 and (ignored := only_descended(part)) is not None:
                raise UsageError(
                    f"the part {type(ignored).__name__} has the coefficient 0 and no restriction, so it would have no "
                    "effect: leave it out, or give it another coefficient"
                )

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        return torch.stack([c * value(part, problem, weights, batch) for c, part in self._counted]).sum()

    def gradient(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        # part by part: one backward pass through the sum would pass over the gradients that parts estimate themselves
        return torch.stack([c * gradient(part, problem, weights, batch) for c, part in self._counted]).sum(0)

    def restrict(self, problem: Problem, weights: Tensor, progress: float, batch: Batch) -> Tensor:
        for _, part in self.parts:
            weights = restrict(part, problem, weights, progress, batch)
        return weights

    def tangent(self, problem: Problem, weights: Tensor) -> Projection:
        # `everything` is recognised by identity: a sum without restrictions must return it, not a wrapper of it
        projections = [tangent(part, problem, weights) for _, part in self.parts]
        restricting = [one for one in projections if one is not everything]

        # a product of projections is itself one only where they commute, as masks do
        def in_turn(vector: Tensor) -> Tensor:
            for projection in restricting:
                vector = projection(vector)
            return vector

        return in_turn if restricting else everything

    def check(self, network: Network) -> None:
        for _, part in self.parts:
            check_network(part, network)

    @property
    def summands(self) -> tuple[Objective, ...]:
        return tuple(part for coefficient, part in self.parts if coefficient != 0)

    @property
    def milestones(self) -> tuple[tuple[float, float], ...]:
        return tuple(one for _, part in self.parts for one in milestones(part))

    @property
    def tasks(self) -> tuple[str, ...]:
        # a dict instead of a set, to keep the order
        return tuple(dict.fromkeys(name for _, part in self.parts for name in tasks_of(part)))

    @property
    def _counted(self) -> tuple[tuple[float, Objective], ...]:
        # a sum of restrictions alone still has a value: 0 times that of its first part
        return tuple((c, part) for c, part in self.parts if c != 0) or self.parts[:1]
