"""Other outputs, off the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.paths.batch import Batch
from fipray.paths.problem import Problem
from fipray.registry import spec


@spec("output_diversity")
@checked
@dataclass(frozen=True)
class OutputDiversity:
    """Differ from the start and the other networks on inputs far from the data, while agreeing on the data.

    `value = -mean_{n, o} |s(w, x_n + sigma xi_n) - s(o, x_n + sigma xi_n)|^2` over the inputs and over o = start and
    others, with `xi_n ~ N(0, I)` of the draw; s the embedded outputs. For classes it lies in -8..0. The functional
    distance holds the outputs on the data, this parts them off it: networks that disagree there know what they do not
    know (the repulsion of functions in D'Angelo & Fortuin 2021).

    sigma: standard deviation of the noise, above 0, in units of the inputs.
    """

    sigma: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise UsageError(f"sigma is above 0 and finite; {self.sigma} was given")

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        inputs = batch.inputs + self.sigma * batch.normal(*batch.inputs.shape)
        own = problem.geometry.embed(problem.network(weights, inputs))
        distances = []
        for other in (problem.start, *problem.others):
            theirs = problem.geometry.embed(problem.network.outputs(other, inputs))
            distances.append((own - theirs).square().sum(1).mean())
        return -torch.stack(distances).mean()
