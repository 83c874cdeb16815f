"""Exact damped solve in sample space, within the tangent of a restriction."""

from __future__ import annotations

import torch
from torch import Tensor

from fipray.geometry import Metric, StackedMetric, StreamedMetric, solve_in_sample_space
from fipray.paths.stepper import Situation


def exact_correction(
    metric: Metric | StreamedMetric | StackedMetric, situation: Situation, target: Tensor, *, shift: float
) -> Tensor:
    """Displacement that changes the embedded outputs by `target` to first order, damped.

    `z = Q J^T (J Q J^T + shift I)^-1 target`, Q the projection on the tangent of the restriction. Costs the Gram
    matrix, about C backward passes of the batch, and a Cholesky factor of it; under a restriction all of J, [N C, P].

    Args:
        metric: products with J at the situation's weights on its batch.
        situation: where the step begins, with its restriction.
        target: [N, C], wanted change of the embedded outputs.
        shift: N times the damping, at least 0; 0 takes the pseudo-inverse.

    Returns:
        z [P], along the tangent.
    """
    if situation.restricted:
        # Q is symmetric with Q Q = Q, so projecting the rows once gives J Q J^T
        rows = torch.stack([situation.allowed(row) for row in metric.jacobian()])
        gram = rows @ rows.T
    else:
        gram = metric.gram()  # from layer inputs and sensitivities, without J
    solution = solve_in_sample_space(gram, target.flatten(), shift=shift).view_as(target)
    return situation.allowed(metric.jt(solution))
