"""How much is lost with each weight: what decides which go first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.geometry import Metric
from fipray.paths.batch import Batch
from fipray.paths.problem import Problem
from fipray.registry import spec


@runtime_checkable
class Saliency(Protocol):
    """What zeroing a weight costs, by some account; compared among weights, and summed over groups."""

    def losses(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        """[P], at least 0, at `weights` [P], judged on a batch where inputs count."""
        ...


@spec("magnitude")
@checked
@dataclass(frozen=True)
class Magnitude:
    """`|w_i|`."""

    def losses(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        return weights.abs()


@spec("metric_diagonal")
@checked
@dataclass(frozen=True)
class MetricDiagonal:
    """`w_i^2 g_ii / 2`: how far the outputs move, to second order, if weight i alone goes (Optimal Brain Damage, LeCun
    et al. 1990, in the metric of the outputs; no labels).

    num_inputs: of the batch, from which g is taken.
    """

    num_inputs: int = 128

    def __post_init__(self) -> None:
        _check(self.num_inputs)

    def losses(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        return weights.square() * _metric(problem, weights, batch, self.num_inputs).diagonal() / 2


@spec("optimal_brain_surgeon")
@checked
@dataclass(frozen=True)
class OptimalBrainSurgeon:
    """`w_i^2 / (2 [(g + m I)^-1]_ii)`: how far the outputs move if weight i goes and all others make up for it (Hassibi
    & Stork 1993, in the metric of the outputs; no labels), m the damping in units of the mean of g's diagonal.

    The inverse is taken in sample space, `m [(g + m I)^-1]_ii = 1 - j_i^T (J J^T + N m I)^-1 j_i` with the i-th column
    j_i of J, so it costs J, N C P numbers: num_inputs, N, is small. That the others do make up for it is left to the
    steps that follow.
    """

    num_inputs: int = 32
    damping: float = 1e-2

    def __post_init__(self) -> None:
        _check(self.num_inputs)
        if not 0 < self.damping < math.inf:
            raise UsageError(f"damping is above 0 and finite; {self.damping} was given")

    def losses(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        metric = _metric(problem, weights, batch, self.num_inputs)
        rows = metric.jacobian()
        mean = float(rows.square().sum()) / metric.num_inputs / len(weights)
        if not 0 < mean < math.inf:  # no output moves; or what they are is not finite, and neither is any loss
            return torch.full_like(weights, mean)
        damping = self.damping * mean
        gram = rows @ rows.T
        gram.diagonal().add_(metric.num_inputs * damping)
        solved = torch.linalg.solve_triangular(torch.linalg.cholesky(gram), rows, upper=False)
        inverse = (1 - solved.square().sum(0)).clamp_(min=torch.finfo(weights.dtype).eps) / damping
        return weights.square() / (2 * inverse)


def _metric(problem: Problem, weights: Tensor, batch: Batch, num_inputs: int) -> Metric:
    return Metric(problem.network, weights, batch.inputs[:num_inputs], problem.geometry)


def _check(num_inputs: int) -> None:
    if not num_inputs >= 1:
        raise UsageError(f"a metric needs an input; num_inputs={num_inputs} was given")
