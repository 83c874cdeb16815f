"""The functions of earlier tasks, where no inputs of theirs are kept."""

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
    """`value = sum_k (w - w0)^T g_k (w - w0)` over the metrics g_k that the problem remembers, w0 the start: the
    squared functional distance on inputs that are gone, to second order (Kirkpatrick et al. 2017 with a diagonal;
    Ritter et al. 2018 with Kronecker products). In a sum beside `LearnTask`; what remembers is `fip.objectives.KroneckerMemory`.
    """

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        if not problem.memory:
            raise UsageError(
                "there is nothing to remember: give the path a memory, such as fip.objectives.KroneckerMemory"
            )
        moved = weights - problem.start
        return torch.stack([metric.squared_length(moved) for metric in problem.memory]).sum()
