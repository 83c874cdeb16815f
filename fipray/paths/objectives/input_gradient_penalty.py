"""Small input gradients."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fipray.border import checked
from fipray.paths.batch import Batch
from fipray.paths.objectives.gradient_diversity import input_gradients
from fipray.paths.problem import Problem
from fipray.registry import spec


@spec("input_gradient_penalty")
@checked
@dataclass(frozen=True)
class InputGradientPenalty:
    """Flatten the margin in the inputs, so that the same step moves the outputs less.

    `value = mean_n |dm(w, x_n)/dx|_2`, m the margin of the class that the start predicts (see `GradientDiversity`), in units of
    1 / input. The smoothness term of TRS (Yang et al. 2021, equation 6, there of the cross-entropy), on which, together
    with the cosine of gradients, attacks that carry over from one network to another depend.

    Costs a double backward pass.
    """

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        return input_gradients(problem.network, weights, batch.inputs, batch.labels).norm(dim=1).mean()
