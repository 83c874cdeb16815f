"""Whether `torch.vmap` may compute a network at several weights at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap

_NUM_INPUTS = 4
_SLOW = "There is a performance drop"  # torch's warning where it has no batching rule for an operator, and loops itself


def stacks(network: Callable[[Tensor, Tensor], Tensor], weights: Tensor, inputs: Tensor) -> bool:
    """Whether `torch.vmap` over weights gives the outputs, and the gradients in weights and inputs, that one network
    after the other gives.

    Tried once, at two weights and on a few inputs. Not so for operators without a batching rule (LSTM, GRU), custom
    autograd functions without one, control flow that looks at activations, and writing in place to buffers.

    Args:
        network: `(weights [P], inputs [N, ...]) -> outputs [N, ...]`.
        weights: [P].
        inputs: [N, ...].
    """
    few = inputs[:_NUM_INPUTS].detach()
    both = torch.stack([weights, 0.99 * weights]).detach()
    expected = _outputs_and_gradients(lambda some, few: torch.stack([network(one, few) for one in some]), both, few)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=_SLOW)
        try:
            found = _outputs_and_gradients(vmap(network, in_dims=(0, None)), both, few)
        except Exception:  # whatever the module's own code raises at a batched tensor
            return False
    return len(found) == len(expected) and all(map(_agree, found, expected))


def _outputs_and_gradients(
    stacked: Callable[[Tensor, Tensor], Tensor], weights: Tensor, inputs: Tensor
) -> tuple[Tensor, ...]:
    """The outputs; then, where there are any, the gradients of a weighted sum of them in the weights and the inputs."""
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
    """To rounding, which is another where sums run in another order. Nothing is known where numbers are not finite."""
    if found.shape != expected.shape or not bool(expected.isfinite().all()):
        return False
    tolerance = torch.finfo(expected.dtype).eps ** 0.5 * float(expected.abs().max()) if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=0.0, atol=tolerance)
