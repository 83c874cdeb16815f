"""Kronecker-factored penalty: the functions of earlier tasks without their inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.paths.batch import Batch
from fipray.paths.problem import Problem
from fipray.registry import spec


@spec("kronecker_penalty")
@checked
@dataclass(frozen=True)
class KroneckerPenalty:
    """Squared functional distance on inputs that are no longer available, to second order.

    `value = sum_k (w - w0)^T g_k (w - w0)` over the metrics g_k in the problem's `memory`, w0 the base weights. Used in
    a `WeightedSum` beside `LearnTask`; `fip.objectives.KroneckerMemory` records the metrics.

    Cost: two products of a layer's size for each layer and metric; no pass through the network.

    Needs: a memory (`Problem(memory=...)`); no inputs and no labels.

    Source: Kirkpatrick et al. 2017 with a diagonal; Ritter et al. 2018 with Kronecker products.
    """

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        if not problem.memory:
            raise UsageError(
                "KroneckerPenalty needs a memory, and the problem has none: give the path one, such as "
                "fip.objectives.KroneckerMemory"
            )
        displacement = weights - problem.start
        # each term is quadratic with its minimum at the base weights: its gradient is 0 on the first step
        return torch.stack([metric.squared_length(displacement) for metric in problem.memory]).sum()
