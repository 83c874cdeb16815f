"""Derivatives of a network's outputs along directions of input space, differentiable in the weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fipray.errors import DataError

Call = Callable[[Tensor], Tensor]
"""A network at fixed weights: inputs [N, ...] to outputs [N, C]."""


def slopes_of(call: Call, inputs: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Run a network and prepare its directional derivatives.

    Args:
        call: network at fixed weights.
        inputs: floating-point inputs [N, ...].

    Returns:
        Outputs [N, C], and the function that maps a direction [N, ...] to the slopes [N, C] along it, at the cost of
        one backward pass each.

    Raises:
        DataError: if the inputs are not floating-point numbers.
    """
    if not inputs.is_floating_point():
        raise DataError(
            f"slopes along the inputs need floating-point inputs; these are {inputs.dtype}: convert them, or keep "
            "another quantity"
        )
    with torch.enable_grad():
        moving = inputs.detach().requires_grad_(True)
        outputs = call(moving)
        probe = torch.zeros_like(outputs, requires_grad=True)
        # J^T z is linear in z, so its derivative by z along u is J u, again differentiable by the weights.
        # Zeros instead of None where outputs do not depend on the inputs: the slope is 0 there, and no error.
        (transposed,) = torch.autograd.grad(outputs, moving, probe, create_graph=True, materialize_grads=True)

    def along(direction: Tensor) -> Tensor:
        with torch.enable_grad():
            return torch.autograd.grad(transposed, probe, direction, create_graph=True, materialize_grads=True)[0]

    return outputs, along
