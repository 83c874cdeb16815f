"""Frozen parameters that compute in double precision, cast where they are used and one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from fipray.networks.modules import tensors_in
from fipray.networks.origin import memory_of

_DTYPE = torch.Tensor.dtype.__get__  # type: ignore[attr-defined]


@contextmanager
def doubled(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let parameters compute as if they were in double precision.

    A function that uses one of them, or mixes double with lower precision, gets all its arguments in double precision.
    Casts live as long as the function runs, in the backward pass as well, so they take the memory of the largest
    parameter and not of all.

    Args:
        parameters: parameters in any precision; not changed.

    Yields:
        Nothing.
    """
    mode = _Doubling(parameters)
    with mode, saved_tensors_hooks(mode.pack, mode.unpack):
        yield


@dataclass(frozen=True)
class _Cast:
    """A view of a parameter's cast, to be made again when it is needed."""

    parameter: nn.Parameter
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


class _Doubling(TorchFunctionMode):
    """Context of `doubled`."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self._frozen = {memory_of(one): one for one in parameters if one.is_floating_point() and one.numel()}
        self._casts: dict[int, nn.Parameter] = {}  # of the function that runs, by the address of their memory

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        floats = [tensor for tensor in tensors_in((args, given)) if tensor.is_floating_point()]
        fixed = [tensor for tensor in floats if memory_of(tensor) in self._frozen]
        if fixed and func == _DTYPE:
            return torch.float64  # modules cast inputs to the dtype of their weights
        name = getattr(func, "__name__", "")
        is_written = (name.endswith("_") and not name.endswith("__")) or "set" in name or "out" in given
        is_mixed = any(tensor.dtype == torch.float64 for tensor in floats) and len({one.dtype for one in floats}) > 1
        if is_written or not (fixed or is_mixed):
            return func(*args, **given)
        if len(fixed) == len(floats):  # a view of a parameter, or rows of an embedding: these alone are cast
            return self._mapped(func(*args, **given), self._unless_view)
        try:
            return func(*self._mapped(args, self._cast), **self._mapped(given, self._cast))
        finally:
            self._casts.clear()

    def _cast(self, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or tensor.dtype == torch.float64:
            return tensor
        parameter = self._frozen.get(memory_of(tensor))
        if parameter is None:
            return tensor.double()
        # Of the whole parameter, so that a view of it is the same view of the cast that `unpack` makes again.
        double = parameter.detach().double().as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
        self._casts[memory_of(double)] = parameter
        return double

    def _unless_view(self, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or memory_of(tensor) in self._frozen:
            return tensor
        return tensor.double()

    def _mapped(self, value: Any, function: Any) -> Any:
        """Apply a function to the tensors in nested arguments or results."""
        if isinstance(value, Tensor):
            return function(value)
        if isinstance(value, Mapping):
            return {key: self._mapped(one, function) for key, one in value.items()}
        if type(value) in (tuple, list):
            return type(value)(self._mapped(one, function) for one in value)
        return value

    def pack(self, tensor: Tensor) -> Tensor | _Cast:
        """Save a tensor for the backward pass: of a cast, only how to make it again."""
        parameter = self._casts.get(memory_of(tensor)) if self._casts else None
        if parameter is None:
            return tensor
        return _Cast(parameter, tensor.size(), tensor.stride(), int(tensor.storage_offset()))

    def unpack(self, saved: Tensor | _Cast) -> Tensor:
        """Return a saved tensor."""
        if isinstance(saved, Tensor):
            return saved
        return saved.parameter.detach().double().as_strided(saved.size, saved.stride, saved.offset)
