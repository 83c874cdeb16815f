"""Output diversity: outputs that differ from other networks' off the data."""

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
    """Raise the functional distance from the base network and the other networks on noisy inputs far from the data.

    `value = -mean_{n, o} |s(w, x_n + sigma xi_n) - s(o, x_n + sigma xi_n)|^2` over the inputs and over o = base network
    and others, with `xi_n ~ N(0, I)` drawn anew each step and s the embedded outputs. For classes it lies in -8..0. The
    functional distance holds the outputs on the data, and this objective separates them off the data; networks that
    disagree there give a measure of uncertainty. Where the outputs equal those of another network, as at the start of
    a path, the squared distance has no gradient: a random direction of the outputs is taken, at the value 0.

    Cost: one gradient on N inputs, and one forward pass per other network.

    Needs: other networks are optional; no labels. Any output geometry.

    Source: the repulsion of functions of D'Angelo & Fortuin 2021.

    Args:
        sigma: standard deviation of the noise, above 0, in units of the inputs.

    Raises:
        UsageError: for sigma out of range.
    """

    sigma: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise UsageError(f"sigma must be above 0 and finite; {self.sigma} was given")

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        inputs = batch.inputs + self.sigma * batch.normal(*batch.inputs.shape)
        own = problem.geometry.embed(problem.network(weights, inputs))
        distances = []
        # `outputs` keeps no graph: only this network is differentiated
        for other in (problem.start, *problem.others):
            theirs = problem.geometry.embed(problem.network.outputs(other, inputs))
            distances.append((own - theirs).square().sum(1).mean())
        away = torch.stack(distances)
        anywhere = ((own - own.detach()) * batch.normal(*own.shape)).sum(1).mean()  # 0 with a gradient
        return -torch.where(away == 0, anywhere, away).mean()
