"""Arrival at another network: the path ends there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fipray.border import checked
from fipray.paths.batch import Batch
from fipray.paths.objective import Projection
from fipray.paths.objectives.toward import Toward
from fipray.paths.problem import Problem
from fipray.registry import spec


@spec("arrival")
@checked
@dataclass(frozen=True, eq=False)
class Arrival(Toward):
    """`Toward`, with a restriction: at the end of the path the weights are those of the other network.

    With the stepper `OneShot` and one step a network from elsewhere becomes the end of a path of a study, which
    measures its distance from the base network, evaluates it beside the others, and lets paths start there.

    Cost: that of `Toward`.

    Needs: the other network's weights; no labels.

    Source: none in particular.
    """

    def restrict(self, problem: Problem, weights: Tensor, progress: float, batch: Batch) -> Tensor:
        if progress < 1:
            return weights
        goal = self.goal(problem)
        return weights if torch.equal(weights, goal) else goal

    def tangent(self, problem: Problem, weights: Tensor) -> Projection:
        return lambda vector: vector
