"""Inputs that no module is asked about: of a layout, a place or a history that passes through it cannot have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fipray.border import described
from fipray.errors import DataError, FiprayError, UsageError


def check_inputs(inputs: Tensor, weights: Tensor) -> None:
    """Raise DataError unless `inputs` [N, ...] are a dense tensor beside the weights that nobody differentiates."""
    if not isinstance(inputs, Tensor):
        raise DataError(f"inputs are a tensor [N, ...]; this is {described(inputs)}")
    if inputs.layout is not torch.strided or inputs.is_nested or inputs.is_quantized:
        raise DataError(
            f"the inputs are sparse, nested or quantised ({inputs.layout}, {inputs.dtype}): give a dense tensor, as "
            "to_dense() or dequantize() makes it"
        )
    if inputs.device != weights.device:
        raise DataError(
            f"the inputs are on {inputs.device} and the network's weights on {weights.device}: give "
            f"inputs.to({str(weights.device)!r}), or move the module before Network.of"
        )
    if inputs.requires_grad:
        raise DataError("the inputs require gradients, and a network is judged without: give inputs.detach()")


@contextmanager
def refused_by_forward(inputs: Tensor) -> Iterator[None]:
    """Raise DataError for what a module's forward raises on `inputs` that it does not take."""
    try:
        yield
    except (torch.OutOfMemoryError, FiprayError):
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"the network does not take {described(inputs)}: {reason}") from error


def check_device(name: str | torch.device) -> None:
    """Raise UsageError where this machine has no such device that holds numbers."""
    try:
        device = torch.zeros((), device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"there is no device {str(name)!r} here, but 'cpu': {reason}") from error
    if device.type == "meta":
        raise UsageError("tensors on the device 'meta' hold no numbers: give 'cpu', or that of an accelerator")
