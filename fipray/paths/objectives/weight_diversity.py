"""Other weights."""

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
    """Leave the start and the other networks behind in weight space: the diversity of Raghavan & Thomson 2022.

    `value = -mean_o |w - o| / |w0|` over o = start and others. Where `w` is one of them there is no way that leads away
    more than any other, so a random one of the draw is taken: `-<xi, w - o> / (|xi| |w0|)`.

    Distance in weight space is no diversity of functions: weights that no input reaches are free to go far.
    """

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        def distance(other: Tensor) -> Tensor:
            offset = weights - other
            if bool((offset.detach() != 0).any()):
                return torch.linalg.vector_norm(offset)
            direction = batch.normal(problem.network.num_weights)
            return direction @ offset / torch.linalg.vector_norm(direction)

        away = torch.stack([distance(other) for other in (problem.start, *problem.others)])
        return -away.mean() / problem.length
