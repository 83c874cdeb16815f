"""Inputs and devices that can be refused without calling the module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fipray.border import described
from fipray.errors import DataError, FiprayError, UsageError
from fipray.networks.compute import is_out_of_memory


def check_inputs(inputs: Tensor, weights: Tensor) -> None:
    """Check that inputs are a dense tensor on the weights' device that requires no gradients.

    Args:
        inputs: [N, ...].
        weights: [P].

    Raises:
        DataError: if they are not.
    """
    if not isinstance(inputs, Tensor):
        raise DataError(f"inputs must be one tensor [N, ...]; {described(inputs)} was given")
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
        raise DataError("the inputs require gradients, and plain data is expected: give inputs.detach()")


@contextmanager
def refused_by_forward(inputs: Tensor) -> Iterator[None]:
    """Turn errors of a module's forward into errors about its inputs.

    Args:
        inputs: the inputs that are evaluated in the context.

    Yields:
        Nothing.

    Raises:
        DataError: for errors that wrong inputs may cause (RuntimeError, TypeError, ValueError, IndexError).
    """
    try:
        yield
    except FiprayError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0]
        raise DataError(f"the network does not take {described(inputs)}: {reason}") from error


def devices() -> list[str]:
    """Devices of this machine that torch can use: "cpu" last."""
    cuda = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return [*(["cuda"] if cuda else []), *cuda, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def resolved_device(name: str) -> str:
    """Device for a name that may be "auto".

    Args:
        name: a device of torch, or "auto" for a GPU where there is one and the CPU elsewhere. "mps" is taken only by
            its name: it has no double precision.

    Returns:
        A device of torch.

    Raises:
        UsageError: for a device that this machine does not have.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    check_device(name)
    return name


def check_device(name: str | torch.device) -> None:
    """Check that this machine has a device.

    Args:
        name: such as "cpu" or "cuda:0".

    Raises:
        UsageError: if it does not, or if the device is "meta".
    """
    # Backends differ in how they say what there is; a tensor can be made on every device that works.
    try:
        device = torch.zeros((), device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        there = ", ".join(devices())
        raise UsageError(f"there is no device {str(name)!r} here; there are: {there} ({reason})") from error
    if device.type == "meta":
        raise UsageError("tensors on the device 'meta' hold no numbers: give 'cpu' or an accelerator")
