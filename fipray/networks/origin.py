"""The module that was given, which its copy may still reach: through a closure, a global name, a weak reference."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from weakref import ref

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fipray.networks.derivatives import tensors_in

_LIKE = ("_like", "new_")  # in the names of functions that take no more than the kind of their first argument
_AS = ("to", "type_as", "view_as", "expand_as", "reshape_as")  # and no more than that of their second one


class Origin:
    """The parameters, by name, of the module that a network is a copy of, as long as they are there."""

    def __init__(self, names: Iterable[str] = (), parameters: Iterable[nn.Parameter] = ()) -> None:
        self._parameters = {name: ref(parameter) for name, parameter in zip(names, parameters, strict=True)}

    def __reduce__(self) -> tuple[type[Origin], tuple[()]]:
        return Origin, ()  # nothing of it is reached in another process

    def watched(self, names: set[str]) -> Watching:
        """A context in which to look for uses of these parameters."""
        known = {name: one() for name, one in self._parameters.items() if name in names}
        return Watching({name: parameter for name, parameter in known.items() if parameter is not None})


class Watching(TorchFunctionMode):
    """Notes the names of parameters whose values, or those of tensors in their memory, are used: `found`."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        super().__init__()
        self._names = {place: name for name, one in parameters.items() if (place := _memory(one))}
        self.found: dict[str, None] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if any(mark in name for mark in _LIKE) or not _has_values(result):
            return result
        is_written = name.endswith("_") and not name.endswith("__")
        own = {0} if is_written else {_memory(tensor) for tensor in tensors_in(result)}  # views use no values yet
        for tensor in tensors_in(args[:1] if name in _AS else (args, kwargs)):
            if (place := _memory(tensor)) in self._names and place not in own:
                self.found[self._names[place]] = None
        return result


def _memory(tensor: Tensor) -> int:
    """Where a tensor's storage begins; 0 where it has none of its own."""
    with suppress(RuntimeError, NotImplementedError):
        if tensor.layout is torch.strided:
            return tensor.untyped_storage().data_ptr()
    return 0


def _has_values(result: object) -> bool:
    if isinstance(result, (list, tuple)):
        return any(map(_has_values, result))
    return isinstance(result, (Tensor, np.ndarray, float))
