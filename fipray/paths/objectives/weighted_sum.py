"""Several objectives at once."""

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
    """`value = sum_i c_i value_i` for pairs `(c_i, objective_i)`: `WeightedSum(((1.0, Diversify()), (0.1, Toward())))`.

    A coefficient below 0 is an objective that is maximised. Gradients that parts estimate are summed with the same
    coefficients. Restrictions of parts all hold, whatever their coefficients: each is applied in turn, so those of two
    parts must agree, and a part with coefficient 0 only restricts; one that does not is refused.
    """

    parts: tuple[tuple[float, Objective], ...]

    def __post_init__(self) -> None:
        if not (self.parts and all(math.isfinite(coefficient) for coefficient, _ in self.parts)):
            raise UsageError(
                "a sum has one or more parts, a tuple of pairs (finite coefficient, objective), such as "
                f"((1.0, Diversify()), (0.1, Toward())); {self.parts!r} was given"
            )
        for coefficient, part in self.parts:
            if coefficient == 0 and (ignored := only_descended(part)) is not None:
                raise UsageError(
                    f"the part {type(ignored).__name__} has the coefficient 0, so that nothing would come of it: leave "
                    "it out, or give it another"
                )

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        return torch.stack([c * value(part, problem, weights, batch) for c, part in self._counted]).sum()

    def gradient(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        return torch.stack([c * gradient(part, problem, weights, batch) for c, part in self._counted]).sum(0)

    def restrict(self, problem: Problem, weights: Tensor, progress: float, batch: Batch) -> Tensor:
        for _, part in self.parts:
            weights = restrict(part, problem, weights, progress, batch)
        return weights

    def tangent(self, problem: Problem, weights: Tensor) -> Projection:
        projections = [tangent(part, problem, weights) for _, part in self.parts]
        restricting = [one for one in projections if one is not everything]

        def both(vector: Tensor) -> Tensor:
            for projection in restricting:
                vector = projection(vector)
            return vector

        return both if restricting else everything

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
        return tuple(dict.fromkeys(name for _, part in self.parts for name in tasks_of(part)))

    @property
    def _counted(self) -> tuple[tuple[float, Objective], ...]:
        return tuple((c, part) for c, part in self.parts if c != 0) or self.parts[:1]
