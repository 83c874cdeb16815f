"""Functions in a forward pass that set some of a parameter's weights to zero, such as a mask of its own."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

_ROUNDING = ("quant", "round")  # in the names of functions that round small values to zero, which is no mask


class Zeroing(TorchFunctionMode):
    """Context that records functions of a parameter whose result is that parameter with additional zeros.

    Args:
        parameters: parameters to watch, by name.

    Attributes:
        found: names of such functions, by the parameter's name.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        # By address, since each pass makes new views of the vector.
        self._names = {one.data_ptr(): (name, one.shape) for name, one in parameters.items() if one.numel()}
        self._shapes = {one.shape for one in parameters.values()}
        self.found: dict[str, str] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        way = getattr(func, "__name__", "a function")
        if not isinstance(result, Tensor) or result.shape not in self._shapes or not result.is_floating_point():
            return result
        if any(mark in way for mark in _ROUNDING):
            return result
        with suppress(RuntimeError):  # tensors within a vmap of the forward's own have no values to look at
            self._look(result, args, way)
        return result

    def _look(self, result: Tensor, args: Any, way: str) -> None:
        for tensor in (one for one in args if type(one) is Tensor and one.shape == result.shape):
            name, shape = self._names.get(tensor.data_ptr(), ("", None))
            # A result that is zero throughout, such as `0 * weight`, is no mask.
            if shape == result.shape and bool(((result == 0) & (tensor != 0)).any()) and bool(result.any()):
                self.found[name] = way
