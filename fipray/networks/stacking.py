"""Trial of `torch.vmap` over the weights of a network."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap

_NUM_INPUTS = 4  # the trial costs as much as one evaluation on these
# Begin of the warning of torch for an operator without a batching rule, which it then runs in a loop of its own.
_SLOW = "There is a performance drop"


def stacks(network: Callable[[Tensor, Tensor], Tensor], weights: Tensor, inputs: Tensor) -> bool:
    """Try whether `torch.vmap` over weights gives the outputs and gradients of separate evaluations.

    It fails for operators without a batching rule (LSTM, GRU), custom autograd functions without one, control flow that
    depends on activations, and in-place writes to buffers.

    Args:
        network: function `(weights [P], inputs [N, ...]) -> outputs [N, ...]`.
        weights: [P]; tried are these and 0.99 times these.
        inputs: [N, ...], of which the first 4 are used.

    Returns:
        True if outputs, and gradients by weights and inputs, are the same up to rounding.
    """
    few = inputs[:_NUM_INPUTS].detach()
    # Two different rows, so that a result that ignores the batch shows.
    both = torch.stack([weights, 0.99 * weights]).detach()
    expected = _outputs_and_gradients(lambda some, few: torch.stack([network(one, few) for one in some]), both, few)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=_SLOW)
        try:
            found = _outputs_and_gradients(vmap(network, in_dims=(0, None)), both, few)
        except Exception:  # a module's own code may raise anything for a batched tensor
            return False
    return len(found) == len(expected) and all(map(_agree, found, expected))


def _outputs_and_gradients(
    stacked: Callable[[Tensor, Tensor], Tensor], weights: Tensor, inputs: Tensor
) -> tuple[Tensor, ...]:
    """Compute outputs, then gradients of a weighted sum of them by weights and inputs, where there are any."""
    with torch.enable_grad():
        moving = [weights.clone().requires_grad_()]
        if inputs.is_floating_point():
            inputs = inputs.clone().requires_grad_()
            moving.append(inputs)
        outputs = stacked(moving[0], inputs)
        if not outputs.requires_grad:
            return (outputs,)
        mixed = torch.linspace(1, 2, outputs.numel(), dtype=outputs.dtype, device=outputs.device)
        found = torch.autograd.grad(outputs, moving, mixed.view_as(outputs), allow_unused=True)
    gradients: list[Tensor | None] = list(found)
    return (outputs.detach(), *(each for each in gradients if each is not None))


def _agree(found: Tensor, expected: Tensor) -> bool:
    """Compare up to rounding; False where numbers are not finite, which can show nothing."""
    if found.shape != expected.shape or not bool(expected.isfinite().all()):
        return False
    # Batched kernels sum in another order, so differences grow to about the square root of the machine precision.
    tolerance = torch.finfo(expected.dtype).eps ** 0.5 * float(expected.abs().max()) if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=0.0, atol=tolerance)
