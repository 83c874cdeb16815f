"""Random diffusion at constant function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fipray.border import checked
from fipray.paths.batch import Batch
from fipray.paths.problem import Problem
from fipray.registry import spec


@spec("random_walk")
@checked
@dataclass(frozen=True)
class RandomWalk:
    """Random diffusion: every step follows a new direction `xi ~ N(0, I)`, which the stepper projects.

    `value = -<xi, w - w0> / sqrt(P)`, xi drawn from the batch: a step gains its own length along its own xi, and the
    next batch draws another. Values of different batches cannot be compared, and have mean 0.

    With `Natural(damping=0)` a step is the projection of xi on the null space of g, of dimension n. Steps of radius r
    are then Brownian motion on the set of networks with the base network's function, in the metric of weight space
    (`dw = Proj(w) o dB`), as r goes to 0. One step takes `r^2 / P` of its time whatever r was, so an adaptive radius
    rescales time and does not bias the walk; where that set is flat, `E |w - w0|^2 = n/P sum r^2`.

    Cost: one random vector [P]; no pass through the network.

    Needs: nothing.

    Source: Hsu 2002, section 3.2.
    """

    compared: ClassVar[bool] = False  # neither a lower nor a higher value is an improvement

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        # seeded by the batch: the value and the gradient of one step see the same direction
        direction = batch.normal(problem.network.num_weights)
        return -(direction @ (weights - problem.start)) / problem.network.num_weights**0.5
