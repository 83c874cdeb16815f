"""A pretend GPU: tensors that compute on the CPU, report a GPU as their device, and behave as a GPU's do.

    with pretend.gpu() as gpu:
        network = network.to(gpu.device)
        ...
    assert gpu.counts.syncs <= 2

Operations that mix devices raise, as they would on a GPU, and so do draws from a generator of another device. Kernel
launches, host synchronisations and copies between the devices are counted. Where there is a real GPU it is used, and
counted by the same mode.

To torch's C++ code the tensors are on the device `meta`, which exists everywhere: what torch makes on the way is made
there too, and autograd stays in the caller's thread. To Python code the device is called `cuda:0`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_NAME, _INSIDE, _HOST = torch.device("cuda:0"), torch.device("meta"), torch.device("cpu")

# The host needs values of the device: for a number, a shape, or to look for an error.
_WAITS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_consecutive", "_unique2"),
    *("_linalg_eigh", "_linalg_svd", "linalg_eig", "linalg_lstsq", "_linalg_check_errors", "repeat_interleave"),
}
# Nothing is computed: aliases, and memory that is not written to.
_FREE = {"detach", "alias", "lift_fresh", "_local_scalar_dense", "empty", "empty_like", "empty_strided", "new_empty"}
_COPIES, _INDEXED = ("_to_copy", "copy_"), ("index", "index_put", "index_put_", "_index_put_impl_")


@dataclass
class Counts:
    """What the host and the device did for each other.

    Args:
        launches: operations that launch kernels.
        syncs: operations at which the host waits for the device.
        to_device: bytes copied from the host to the device.
        to_host: bytes copied back.
        waits: for each synchronisation its operation, and the innermost line of the package that asked for it.
    """

    launches: int = 0
    syncs: int = 0
    to_device: int = 0
    to_host: int = 0
    waits: list[str] = field(default_factory=list)


class _Tensor(Tensor):
    """Tensor of the pretend GPU: its numbers are those of a tensor on the CPU."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> _Tensor:
        layout = {"strides": host.stride(), "storage_offset": host.storage_offset(), "dtype": host.dtype}
        made = cast(_Tensor, Tensor._make_wrapper_subclass(cls, host.size(), device=_INSIDE, **layout))
        made.host = host
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} on a tensor of the pretend GPU outside of `with pretend.gpu()`")

    def __repr__(self, **_: Any) -> str:
        return f"{self.host!r} on {_NAME}"


class _AnyGenerator(type(torch.Generator)):  # type: ignore[misc]
    """Kind of a class of which every generator is an instance."""

    # Annotations that are looked up while the class stands for torch's own keep it, and must take torch's own later.
    def __instancecheck__(cls, one: object) -> bool:
        return isinstance(one, _OF_TORCH)


_OF_TORCH = torch.Generator


class _Generator(torch.Generator, metaclass=_AnyGenerator):
    """Generator that knows for which device it was made."""

    named: torch.device

    def __new__(cls, device: torch.device | str = "cpu") -> _Generator:
        made = super().__new__(cls)
        made.named = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return _NAME if self.named.type in (_NAME.type, _INSIDE.type) else self.named


class _Names(TorchFunctionMode):
    """Gives the device one name in Python and another in C++."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(_inwards, args), tree_map(_inwards, kwargs or {})
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor):
            return _data(func, args, kwargs)
        if func in (Tensor.tolist, Tensor.__format__):
            return func(args[0].cpu(), *args[1:])
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            args = (args[0], _indices(args[1]), *args[2:])
        if func in (Tensor.untyped_storage, Tensor.data_ptr) and isinstance(args[0], _Tensor):
            return func(args[0].host)
        if func in (Tensor.is_meta.__get__, Tensor.is_cuda.__get__) and isinstance(args[0], _Tensor):
            return bool(func == Tensor.is_cuda.__get__)
        # Here, because generators reach dispatch modes without the type that they have in Python.
        for one in tree_leaves((args, kwargs)):
            if isinstance(one, torch._C.Generator):
                _check_generator(func, one, args, kwargs)
        found = func(*args, **kwargs)
        return _NAME if isinstance(found, torch.device) and found.type == _INSIDE.type else found


def _inwards(given: Any) -> Any:
    name = given.type if isinstance(given, torch.device) else given.split(":")[0] if isinstance(given, str) else ""
    return _INSIDE if name == _NAME.type else given


def _indices(given: Any) -> Any:
    """Lists among the indices as tensors of the host, from which they would be copied: on `meta` they are lost."""
    if isinstance(given, tuple):
        return tuple(_indices(one) for one in given)
    return torch.tensor(given, dtype=None if given else torch.int64) if isinstance(given, list) else given


def _data(func: Any, args: Any, kwargs: Any) -> Tensor:
    """Make a tensor of numbers: torch makes none on `meta`, so they are made on the host and copied, as for a GPU."""
    given, kwargs = args[-1], dict(kwargs)
    device, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
    if func is Tensor.new_tensor:
        device, dtype = device or args[0].device, dtype or args[0].dtype
    if func is torch.as_tensor and isinstance(given, Tensor):
        return given.to(device or given.device, dtype or given.dtype)
    made = torch.tensor(given, dtype=dtype, **kwargs)
    return made if device is None else made.to(device)


def _check_generator(func: Any, generator: torch._C.Generator, args: Any, kwargs: Any) -> None:
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    target = tensors[0].device if tensors else torch.device(kwargs.get("device") or _HOST)
    if (target.type == _HOST.type) != (generator.device.type == _HOST.type):
        wanted = _HOST if target.type == _HOST.type else _NAME
        raise RuntimeError(f"{func.__name__}: expected a generator on {wanted}, and it is on {generator.device}")


class GPU(TorchDispatchMode):
    """Runs the operations of a device and counts them.

    Args:
        pretends: whether there is no such device.

    Attributes:
        device: the device.
        counts: what was done so far.
    """

    def __init__(self, pretends: bool) -> None:
        super().__init__()
        self.pretends, self.device, self.counts = pretends, _NAME, Counts()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise the first operation imports torch's compiler, which takes seconds

    def taken(self) -> Counts:
        """Counts since the last call; they begin anew."""
        taken, self.counts = self.counts, Counts()
        return taken

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        here, target = [one for one in tensors if self._is_here(one)], kwargs.get("device")
        makes = bool(here) if target is None else torch.device(target).type != _HOST.type
        if here or makes:
            self._count(func, args, kwargs, makes)
        if not self.pretends:
            return func(*args, **kwargs)
        if any(one.device.type == _INSIDE.type and not isinstance(one, _Tensor) for one in tensors):
            raise RuntimeError(f"{func}: torch made a tensor without numbers, which the pretend GPU cannot follow")
        if here:
            _refuse_mixed(_name(func), args, [one for one in tensors if not self._is_here(one)])
        if target is not None and makes:
            kwargs["device"] = _HOST
        found = func(*tree_map(_host, args), **tree_map(_host, kwargs))
        if _name(func) == "copy_":
            return args[0]
        known = {id(one.host): one for one in here if isinstance(one, _Tensor)}

        def outwards(value: Any) -> Any:
            if id(value) in known:  # written to in place
                return known[id(value)]
            return _Tensor(value) if makes and isinstance(value, Tensor) else value

        return tree_map(outwards, found)

    def _is_here(self, tensor: Tensor) -> bool:
        return isinstance(tensor, _Tensor) if self.pretends else tensor.is_cuda

    def _count(self, func: Any, args: Any, kwargs: Any, makes: bool) -> None:
        name, waits, crosses = _name(func), _name(func) in _WAITS, 0
        if name in _COPIES:
            source, arrives = (args[0], makes) if name == "_to_copy" else (args[1], self._is_here(args[0]))
            crosses = source.nbytes if self._is_here(source) != arrives else 0
            follows = kwargs.get("non_blocking") or (name == "copy_" and args[2:3] == (True,))
            # A copy to the host is of no use before it has arrived.
            waits = bool(crosses) and not (arrives and follows)
            self.counts.to_device += crosses if arrives else 0
            self.counts.to_host += 0 if arrives else crosses
        if name in _INDEXED:
            for one in (one for one in args[1] if one is not None):
                # A mask is turned into indices, whose number the host must know; indices on the host are copied.
                waits = waits or one.dtype in (torch.bool, torch.uint8) or not self._is_here(one)
                self.counts.to_device += 0 if self._is_here(one) else one.nbytes
        if waits:
            self.counts.syncs += 1
            self.counts.waits.append(f"{name}, asked for by {_line()}")
        if not (func.is_view or name in _FREE or crosses):
            self.counts.launches += 1


def _name(func: Any) -> str:
    return cast(str, func._schema.name.partition("::")[2])


def _host(value: Any) -> Any:
    return value.host if isinstance(value, _Tensor) else value


def _refuse_mixed(name: str, args: Any, elsewhere: list[Tensor]) -> None:
    if name in _COPIES:
        return
    indices = {id(one) for one in args[1]} if name in _INDEXED else set()
    for one in elsewhere:
        if one.dim() and id(one) not in indices:  # a single number goes along with the call
            there = f"one of shape {tuple(one.shape)} is on {one.device}"
            raise RuntimeError(f"{name}: expected all tensors on the device {_NAME}, and {there}")


def _line() -> str:
    """Innermost line of the package that is running."""
    for frame in reversed(traceback.extract_stack()):
        before, inside, file = frame.filename.rpartition("/fipray/")
        if inside and "/site-packages/" not in before:
            return f"{file}:{frame.lineno} {frame.line}"
    return "a test"


def _of_host(name: str) -> Callable[..., Any]:
    """Function of `torch.random` that takes the arguments of its namesake in `torch.cuda`."""
    return lambda *given: getattr(torch.random, name)(*(one for one in given if isinstance(one, Tensor)))


@contextmanager
def gpu() -> Iterator[GPU]:
    """Use a GPU: a real one where there is one.

    Yields:
        The device, and what it counts.
    """
    found = GPU(pretends=not torch.cuda.is_available())
    with ExitStack() as stack:
        if found.pretends:
            # torch makes generators for devices that exist, and keeps the state of those alone.
            stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
            for name in ("get_rng_state", "set_rng_state"):
                stack.enter_context(mock.patch.object(torch.cuda, name, _of_host(name)))
            stack.enter_context(_Names())
        stack.enter_context(found)
        yield found
