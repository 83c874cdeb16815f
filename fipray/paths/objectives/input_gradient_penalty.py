"""Input-gradient penalty: small gradients of the margin with respect to the inputs."""

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
    """Mean norm of the margin's input gradient, so that the same perturbation changes the outputs less.

    `value = mean_n |dm(w, x_n)/dx|_2`, m the margin of the class that the base network predicts (see
    `GradientDiversity`), in units of 1 / input. Together with the cosine of gradients it bounds how well adversarial
    inputs transfer from one network to another.

    Cost: one double backward pass on N inputs.

    Needs: classes, one classification per input; no labels and no other networks.

    Source: the smoothness term of TRS, Yang et al. 2021, equation 6, there of the cross-entropy.
    """

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        # torch takes 0 as the gradient of a norm at 0, so inputs on which the margin is flat do not make NaN
        return input_gradients(problem.network, weights, batch.inputs, batch.labels).norm(dim=1).mean()
