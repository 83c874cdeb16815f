"""Conversion between tensors and numpy arrays, the form of weights in files and between processes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fipray.errors import UsageError
from fipray.networks import copied
from fipray.records.bfloat16 import BFLOAT16


def to_array(tensor: Tensor) -> np.ndarray:
    """Convert a tensor to a numpy array.

    Args:
        tensor: dense tensor on any device.

    Returns:
        Array of the same shape, sharing memory with a tensor on the CPU; bfloat16 in the dtype of
        `fipray.records.bfloat16`, since numpy has none.
    """
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:  # numpy has no such dtype, and Tensor.numpy() raises
        return tensor.contiguous().view(torch.uint16).numpy().view(BFLOAT16)
    return tensor.numpy()


def to_tensor(array: np.ndarray) -> Tensor:
    """Convert an array from `to_array` back to a tensor.

    Args:
        array: numpy array of a dtype that torch has, or of `fipray.records.bfloat16`.

    Returns:
        Tensor on the CPU that shares the array's memory.
    """
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view("<u2")).view(torch.bfloat16)
    return torch.from_numpy(array)


def state_arrays(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Convert a state_dict to numpy arrays.

    Args:
        state: state_dict of a module.

    Returns:
        Arrays by name.

    Raises:
        UsageError: for an entry that is not a dense tensor.
    """
    found = {}
    for name, value in state.items():
        try:
            found[name] = to_array(value)
        except (AttributeError, TypeError, RuntimeError, NotImplementedError) as error:
            # Python objects, sparse, quantized and other tensors fail in different ways.
            raise UsageError(
                f"{name} in the module's state_dict is not a plain tensor, so no safetensors file can hold it "
                f"({error}): leave it out, or register a tensor in its place"
            ) from error
    return found


def weights_digest(module: nn.Module) -> str:
    """Compute a digest of a module's parameters and buffers.

    Args:
        module: network.

    Returns:
        16 hexadecimal digits of a SHA-256 of names, dtypes, shapes and values.
    """
    hashing = hashlib.sha256()
    # Of a copy, as in `payload_of`: wrappers such as torch.compile's would put a prefix on every name.
    for name, array in state_arrays(copied(module, module.parameters()).state_dict()).items():
        # Dtype and shape too: arrays of other shapes, or zeros of another dtype, can have the same bytes.
        hashing.update(f"{name} {array.dtype.str} {array.shape}".encode())
        hashing.update(np.ascontiguousarray(array).data)
    return hashing.hexdigest()[:16]


@torch.no_grad()
def load_shared(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state_dict into a module whose parameters are in another's memory, and write nothing there.

    Args:
        module: the module, changed in place. Parameters that have other values than the state get memory of their own;
            all others stay where they are.
        state: the state_dict.

    Raises:
        RuntimeError: for a state of other names or shapes, as `load_state_dict` does.
    """
    kept = set()
    for name, parameter in module.named_parameters():
        there = state.get(name)
        if there is not None and there.dtype == parameter.dtype and torch.equal(there, parameter):
            kept.add(id(parameter))
        else:
            parameter.data = parameter.data.clone()
    names = {name for name, one in module.named_parameters(remove_duplicate=False) if id(one) in kept}
    missing, unknown = module.load_state_dict({k: v for k, v in state.items() if k not in names}, strict=False)
    if unknown or not names.issuperset(missing):
        raise RuntimeError(
            f"missing are {', '.join(sorted({*missing} - names)) or 'none'}, and unknown are "
            f"{', '.join(unknown) or 'none'}"
        )
