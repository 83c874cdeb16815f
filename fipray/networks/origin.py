"""The module that a network was copied from, which the copy may still use by mistake."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from weakref import ref

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fipray.networks.modules import tensors_in

# Marks in the names of functions that use only dtype, device or shape: of their first argument (zeros_like, new_zeros)
# or of their second one (x.to(other), x.view_as(other)). Using these of an original parameter is harmless.
_LIKE = ("_like", "new_")
_AS = ("to", "type_as", "view_as", "expand_as", "reshape_as")


class Origin:
    """Weak references to the parameters of the module that a network was copied from.

    `copy.deepcopy` does not copy functions, so a copy may still reach the original through a closure, a global name, a
    default argument or a weak reference.

    Args:
        names: the parameters' names.
        parameters: the parameters, in the same order.
    """

    def __init__(self, names: Iterable[str] = (), parameters: Iterable[nn.Parameter] = ()) -> None:
        self._parameters = {name: ref(parameter) for name, parameter in zip(names, parameters, strict=True)}

    def __reduce__(self) -> tuple[type[Origin], tuple[()]]:
        return Origin, ()  # weak references cannot be pickled, and another process does not have the original

    def watched(self, names: set[str]) -> Watching:
        """Watch for uses of the original's parameters.

        Args:
            names: parameters to watch; those that exist no more are left out.

        Returns:
            A context that records uses within it.
        """
        known = {name: one() for name, one in self._parameters.items() if name in names}
        return Watching({name: parameter for name, parameter in known.items() if parameter is not None})


class Watching(TorchFunctionMode):
    """Context that records which parameters are used.

    A use is a torch function that reads the values of a parameter or of a tensor in its memory. Views are no use.

    Args:
        parameters: parameters to watch, by name.

    Attributes:
        found: names of the parameters that were used, in order, as the keys of a dictionary.
    """

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        super().__init__()
        self._names = {place: name for name, one in parameters.items() if (place := memory_of(one))}
        self.found: dict[str, None] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if any(mark in name for mark in _LIKE) or not _has_values(result):
            return result
        # A result in the same memory is a view, which reads no values yet; one of an in-place function is not.
        is_written = name.endswith("_") and not name.endswith("__")
        own = {0} if is_written else {memory_of(tensor) for tensor in tensors_in(result)}
        for tensor in tensors_in(args[:1] if name in _AS else (args, kwargs)):
            if (place := memory_of(tensor)) in self._names and place not in own:
                self.found[self._names[place]] = None
        return result


def memory_of(tensor: Tensor) -> int:
    """Address of the memory of a tensor.

    Args:
        tensor: any tensor.

    Returns:
        Address of its storage; 0 where it has none of its own.
    """
    with suppress(RuntimeError, NotImplementedError):
        if tensor.layout is torch.strided:
            return tensor.untyped_storage().data_ptr()
    return 0


def _has_values(result: object) -> bool:
    if isinstance(result, (list, tuple)):
        return any(map(_has_values, result))
    return isinstance(result, (Tensor, np.ndarray, float))
