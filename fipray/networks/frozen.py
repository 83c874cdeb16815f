"""Frozen parameters in the memory of the module that was given: shared, guarded against writes, and verified."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fipray.errors import NetworkError
from fipray.networks.modules import tensors_in
from fipray.networks.parameters import listed

_CHUNK = 2**16  # numbers that are read at a time, so that reading takes no memory to speak of
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by size in bytes
_FACTOR = 6364136223846793005  # odd, of a linear congruential generator


class Frozen:
    """Parameters that a network shares with the module that it was made of.

    A change is found by autograd's version counter of the tensor, which counts every write but those through `.data`
    and numpy and those of fused optimizers, and by a fingerprint of the values, which finds all.

    Args:
        parameters: the network's own parameters in shared memory, by name.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter] | None = None) -> None:
        self._parameters = dict(parameters or {})
        self._versions = {name: one._version for name, one in self._parameters.items()}
        self._fingerprints = {name: fingerprint(one) for name, one in self._parameters.items()}

    def __len__(self) -> int:
        return len(self._parameters)

    def verify(self) -> None:
        """Raise if a parameter has changed, as far as version counters tell: microseconds.

        Raises:
            NetworkError: naming the parameters.
        """
        versions = self._versions
        if written := [name for name, one in self._parameters.items() if one._version != versions[name]]:
            self._compare(written)

    def verify_values(self) -> None:
        """Raise if a parameter has changed in any way: reads all of them once.

        Raises:
            NetworkError: naming the parameters.
        """
        self._compare(self._parameters)

    def _compare(self, names: Iterable[str]) -> None:
        names = list(names)
        changed = [name for name in names if fingerprint(self._parameters[name]) != self._fingerprints[name]]
        if changed:
            raise NetworkError(
                f"the frozen parameters {listed(changed)} have changed since the network was made. It shares them with "
                "the module that was given, which must keep them while the network is in use: make the network of "
                "copy.deepcopy(module), or make it again of the changed module"
            )
        # Written, but with the same values, as `load_state_dict` of the same file does.
        self._versions |= {name: self._parameters[name]._version for name in names}

    def unshare(self) -> None:
        """Copy the parameters: from here on the network has its own."""
        for parameter in self._parameters.values():
            parameter.data = parameter.data.clone()
        self._parameters.clear()

    def guarded(self) -> Guarding:
        """Make a context in which no operation of torch can write into the parameters.

        Returns:
            The context; a write raises `WriteError` before it happens.
        """
        return Guarding(self._parameters)


class WriteError(NetworkError):
    """Attempt to write into a shared parameter."""


class Guarding(TorchDispatchMode):
    """Context that refuses operations that would write into parameters, also through `.data`.

    Args:
        parameters: parameters by name.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = {one.untyped_storage().data_ptr(): name for name, one in parameters.items() if one.numel()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = args[place] if place < len(args) else given.get(argument.name)
            for tensor in tensors_in(value):
                name = self._names.get(tensor.untyped_storage().data_ptr()) if tensor.layout is torch.strided else None
                if name is not None:
                    raise WriteError(f"the forward writes into the frozen parameter {name}")
        return func(*args, **given)


@torch.no_grad()
def fingerprint(tensor: Tensor) -> int:
    """Compute a fingerprint of a tensor's values, on its device and without a copy of it.

    Args:
        tensor: a dense tensor.

    Returns:
        A number of 64 bits, which the change of any single value changes.
    """
    values = tensor.detach()
    flat = (torch.view_as_real(values) if values.is_complex() else values).reshape(-1)
    bits = flat.view(_INTEGERS[flat.element_size()])
    factors = _factors(str(bits.device))
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for part in bits.split(_CHUNK):
        # Modulo 2^64, in which multiplication by odd numbers loses nothing.
        total = total * _FACTOR + (part.to(torch.int64) * factors[: len(part)]).sum()
    return int(total)


@lru_cache(maxsize=8)
def _factors(device: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(-(2**62), 2**62, (_CHUNK,), generator=generator, dtype=torch.int64, device="cpu")
    return (2 * drawn + 1).to(device)
