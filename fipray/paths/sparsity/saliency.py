"""Saliencies: what zeroing each weight costs, which decides the order of pruning."""

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
    """Estimated cost of zeroing each weight; compared among weights, and summed over groups."""

    def losses(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        """Compute the saliencies of all weights.

        Args:
            problem: supplies the network and its output geometry.
            weights: [P].
            batch: inputs [N, ...], for saliencies that depend on the function.

        Returns:
            Saliencies [P], at least 0.
        """
        ...


@spec("magnitude")
@checked
@dataclass(frozen=True)
class Magnitude:
    """Magnitude `|w_i|`. Costs nothing and needs no inputs."""

    def losses(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        return weights.abs()


@spec("metric_diagonal")
@checked
@dataclass(frozen=True)
class MetricDiagonal:
    """Saliency `w_i^2 g_ii / 2`: half the squared functional distance, to second order, if weight i alone is zeroed.

    Cost: C backward passes on N = `num_inputs` inputs, C the number of outputs, where each weight acts once, in a
    linear layer or convolution; otherwise N C.

    Needs: inputs; no labels.

    Source: Optimal Brain Damage, LeCun et al. 1990, in the metric of the outputs.

    Args:
        num_inputs: number of the batch's inputs on which g is taken, at least 1.

    Raises:
        UsageError: for fewer than 1 input.
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
    """Saliency `w_i^2 / (2 [(g + m I)^-1]_ii)`: cost of zeroing weight i if all others compensate for it.

    m is the damping in units of the mean of g's diagonal. The inverse is taken in sample space,
    `m [(g + m I)^-1]_ii = 1 - j_i^T (J J^T + N m I)^-1 j_i` with the i-th column j_i of J. The compensation itself is
    left to the steps that follow.

    Cost: J, of N C P numbers, and a triangular solve of its size; hence a small `num_inputs`.

    Needs: inputs; no labels.

    Source: Optimal Brain Surgeon, Hassibi & Stork 1993, in the metric of the outputs.

    Args:
        num_inputs: N, number of the batch's inputs on which g is taken, at least 1.
        damping: relative damping, above 0 and finite.

    Raises:
        UsageError: for a setting out of range.
    """

    num_inputs: int = 32
    damping: float = 1e-2

    def __post_init__(self) -> None:
        _check(self.num_inputs)
        if not 0 < self.damping < math.inf:
            raise UsageError(f"damping must be above 0 and finite; {self.damping} was given")

    def losses(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        metric = _metric(problem, weights, batch, self.num_inputs)
        rows = metric.jacobian()
        # relative to g, because its scale differs by orders of magnitude between networks
        mean = float(rows.square().sum()) / metric.num_inputs / len(weights)
        # 0 where no weight changes an output; not finite where the outputs are not, and then no saliency is
        if not 0 < mean < math.inf:
            return torch.full_like(weights, mean)
        damping = self.damping * mean
        gram = rows @ rows.T
        gram.diagonal().add_(metric.num_inputs * damping)
        solved = torch.linalg.solve_triangular(torch.linalg.cholesky(gram), rows, upper=False)
        # for weights that the outputs determine 1 - x cancels to rounding, so it is kept above 0
        inverse = (1 - solved.square().sum(0)).clamp_(min=torch.finfo(weights.dtype).eps) / damping
        return weights.square() / (2 * inverse)


def _metric(problem: Problem, weights: Tensor, batch: Batch, num_inputs: int) -> Metric:
    return Metric(problem.network, weights, batch.inputs[:num_inputs], problem.geometry)


def _check(num_inputs: int) -> None:
    if not num_inputs >= 1:
        raise UsageError(f"num_inputs must be at least 1; {num_inputs} was given")
