"""Weight diversity: distance from other networks in weight space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fipray.border import checked
from fipray.paths.batch import Batch
from fipray.paths.problem import Problem
from fipray.registry import spec


@spec("weight_diversity")
@checked
@dataclass(frozen=True)
class WeightDiversity:
    """Negative mean distance from the base network and the other networks in weight space.

    `value = -mean_o |w - o| / |w0|` over o = base network and others. Where `w` equals one of them no direction leads
    away more than any other, so a random one of the draw is taken: `-<xi, w - o> / (|xi| |w0|)`.

    Distance in weight space is no diversity of functions: weights that no input reaches move freely.

    Cost: a few vector operations on [P] per network; no pass through the network.

    Needs: other networks are optional; no labels.

    Source: the diversity of Raghavan & Thomson 2022, arXiv 2205.00334.
    """

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        def distance(other: Tensor) -> Tensor:
            offset = weights - other
            if bool((offset.detach() != 0).any()):
                return torch.linalg.vector_norm(offset)
            # the norm has no gradient at 0
            direction = batch.normal(problem.network.num_weights)
            return direction @ offset / torch.linalg.vector_norm(direction)

        away = torch.stack([distance(other) for other in (problem.start, *problem.others)])
        return -away.mean() / problem.length
