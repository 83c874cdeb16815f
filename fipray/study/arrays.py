"""Tensors as arrays of numpy, in which weights cross to files and to other processes, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fipray.errors import UsageError
from fipray.records.bfloat16 import BFLOAT16


def to_array(tensor: Tensor) -> np.ndarray:
    """The tensor's values, bfloat16 as `fipray.records.bfloat16` has it."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.uint16).numpy().view(BFLOAT16)
    return tensor.numpy()


def to_tensor(array: np.ndarray) -> Tensor:
    """What `to_array` made an array of; it shares the memory."""
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view("<u2")).view(torch.bfloat16)
    return torch.from_numpy(array)


def state_arrays(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A state_dict as arrays by name. Raises UsageError for an entry that is no plain tensor."""
    found = {}
    for name, value in state.items():
        try:
            found[name] = to_array(value)
        except (AttributeError, TypeError, RuntimeError, NotImplementedError) as error:
            raise UsageError(
                f"{name} in the module's state_dict is no plain tensor, so it cannot be kept in a safetensors file "
                f"({error}): leave it out, or register a tensor in its place"
            ) from error
    return found
